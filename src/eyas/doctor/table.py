"""The table of rules as Markdown: `eyas doctor --rules`, or `python -m eyas.doctor.table`."""

from __future__ import annotations

from eyas.doctor.check import rules


def markdown() -> str:
    """One line a rule, by id."""
    lines = ["| rule | what | severity | why it hurts | what to do | `--fix` |", "|---|---|---|---|---|---|"]
    for rule in rules():
        fix = "no"
        if rule.repair is not None:
            equal = f"equal to {rule.tolerance:.0e}" if rule.tolerance else "exact"
            fix = "with `--strip-nms`" if rule.on_request else equal
        lines.append(f"| {rule.id} | {rule.title} | {rule.severity} | {rule.why} | {rule.remedy} | {fix} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(markdown())
