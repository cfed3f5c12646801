"""What is to be counted in a picture: lines and zones, from Python, a JSON file or the words of a command.

Points are x, y in pixels of the source picture; those of a `relative` line or zone are shares of its width and height.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eyas.errors import OptionError, problem

Point = tuple[float, float]
MOST = 1e6  # of any number here
# The point of a box that stands for its object, as shares of the box's width and height.
ANCHORS = {"bottom": (0.5, 1.0), "centre": (0.5, 0.5), "top": (0.5, 0.0), "left": (0.0, 0.5), "right": (1.0, 0.5)}


@dataclass(frozen=True, slots=True)
class Line:
    """A line from `start` to `end`. "in" is across it from the right hand of who walks along it to the left hand.

    anchor: the point of a box that must cross, one of ANCHORS. classes: names that count; None: all.
    Raises OptionError for a line without length and for whatever else is not as described.
    """

    name: str
    start: Point
    end: Point
    anchor: str = "bottom"
    classes: tuple[str, ...] | None = None
    relative: bool = False

    def __post_init__(self) -> None:
        start, end = _checked(self, [self.start, self.end])
        if start == end:
            raise _wrong(f"line {self.name!r} has no length", start, "two points that differ")
        object.__setattr__(self, "start", start)
        object.__setattr__(self, "end", end)

    @property
    def points(self) -> tuple[Point, ...]:
        """Start and end."""
        return self.start, self.end


@dataclass(frozen=True, slots=True)
class Zone:
    """The area within a polygon; parts that it winds round twice are outside.

    anchor: the point of a box that must lie within, one of ANCHORS. classes: names that count; None: all.
    Raises OptionError for fewer than three points, no area, and whatever else is not as described.
    """

    name: str
    polygon: tuple[Point, ...]
    anchor: str = "bottom"
    classes: tuple[str, ...] | None = None
    relative: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "polygon", _checked(self, self.polygon))
        if len(self.polygon) < 3:
            raise _wrong(f"zone {self.name!r} has too few points", len(self.polygon), "3 points or more")
        corners = np.array(self.polygon)
        if np.linalg.matrix_rank(corners - corners[0], tol=1e-9) < 2:
            raise _wrong(f"zone {self.name!r} has no area", self.polygon, "points that do not lie on one line")

    @property
    def points(self) -> tuple[Point, ...]:
        """The corners."""
        return self.polygon


@dataclass(frozen=True, slots=True)
class Rules:
    """What is counted and how.

    lines, zones: each with a name of its own. minimum_crossing: frames in a row that must see an object on the other
    side of a line, or inside or outside of a zone, until that counts. tolerance_s: for how long an object may be unseen
    and still is where it was.
    Raises OptionError for values out of range and names that occur twice.
    """

    lines: tuple[Line, ...] = ()
    zones: tuple[Zone, ...] = ()
    minimum_crossing: int = 2
    tolerance_s: float = 1.0

    def __post_init__(self) -> None:
        names = [line.name for line in self.lines] + [zone.name for zone in self.zones]
        twice = sorted({n for n in names if names.count(n) > 1})
        if twice:
            raise _wrong("a name occurs twice", ", ".join(twice), "another name for each line and zone")
        if type(self.minimum_crossing) is not int or not 1 <= self.minimum_crossing <= 1000:
            raise _wrong(
                "minimum_crossing is wrong", repr(self.minimum_crossing), "a whole number of frames, 1 to 1000"
            )
        if not _is_number(self.tolerance_s) or not 0 < self.tolerance_s <= 3600:
            raise _wrong("tolerance_s is wrong", repr(self.tolerance_s), "seconds, over 0, up to 3600")


def read_rules(path: Path) -> Rules:
    """The rules in a JSON file, an object with the fields of `Rules`, and `relative` for all its points.

    Raises OptionError, with the file's name, for a file that cannot be read, one without a rule, and all that is wrong
    in it.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"), object_pairs_hook=_once)
        rules = _rules(content)
        if not (rules.lines or rules.zones):
            raise _wrong("there is no rule in it", "neither lines nor zones", "at least one of them")
        return rules
    except OptionError as error:
        raise OptionError(f"{path}: {error}") from error
    except (OSError, ValueError, RecursionError) as error:
        what, got = "the rules cannot be read", f"{path}: {error}"[:300]
        raise _wrong(what, got, "a JSON file, as docs/analytics.md shows") from error


def rules_of(lines: Sequence[str], zones: Sequence[str]) -> Rules:
    """The rules in NAME=x1,y1,x2,y2 for each line and NAME=x,y,x,y,x,y… for each zone.

    Numbers are pixels; with % behind every number of a rule, they are hundredths of the picture's width and height.
    Raises OptionError.
    """
    named = [_spoken("line", text) for text in lines]
    made = tuple(Line(name, start, end, relative=relative) for name, (start, end), relative in named)
    areas = [_spoken("zone", text) for text in zones]
    return Rules(made, tuple(Zone(name, points, relative=relative) for name, points, relative in areas))


def in_pixels(rule: Line | Zone, size: tuple[int, int]) -> NDArray[np.float64]:
    """The points [P, 2] of a line or zone as x, y in pixels of a (height, width) picture.

    Raises OptionError where one lies outside of the picture.
    """
    wide, high = size[1], size[0]
    points = np.array(rule.points) * ((wide, high) if rule.relative else 1)
    if (points < 0).any() or (points > (wide, high)).any():
        raise OptionError(
            problem(
                f"{rule.name!r} reaches out of the picture",
                got=rule.points,
                expected=f"x from 0 to {wide}, y from 0 to {high}",
                remedy='Shares of the picture ("relative": true, or 50%) suit every size.',
            )
        )
    return points


def check_fit(rules: Rules, size: tuple[int, int]) -> None:
    """Raise OptionError for a line or zone that reaches out of a (height, width) picture."""
    for rule in _all(rules):
        in_pixels(rule, size)


def check_classes(rules: Rules, names: Sequence[str]) -> None:
    """Raise OptionError for a rule's class that is not among a model's names; of one without names nothing is known."""
    wanted = {name for rule in _all(rules) for name in rule.classes or ()}
    unknown = sorted(wanted - set(names))
    if names and unknown:
        expected = ", ".join(names[:20]) + (" …" if len(names) > 20 else "")
        what, remedy = "the model has no such class", "Mend the rule's classes."
        raise OptionError(problem(what, got=", ".join(unknown), expected=expected, remedy=remedy))


def _all(rules: Rules) -> tuple[Line | Zone, ...]:
    return (*rules.lines, *rules.zones)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of JSON, which would otherwise keep the last of two values of a key and say nothing."""
    names = [name for name, _ in pairs]
    twice = sorted({n for n in names if names.count(n) > 1})
    if twice:
        raise _wrong("a key occurs twice", ", ".join(twice), "each key once in an object")
    return dict(pairs)


def _rules(content: object) -> Rules:
    known = [f.name for f in fields(Rules)]
    top = _keys("the file", content, [*known, "relative"], [])
    relative = top.get("relative", False)
    if not isinstance(relative, bool):
        raise _wrong("relative is wrong", repr(relative), "true or false")
    made: dict[str, Any] = {name: value for name, value in top.items() if name in known}
    for kind, make, needed in (("lines", Line, ["name", "start", "end"]), ("zones", Zone, ["name", "polygon"])):
        items = top.get(kind, [])
        if not isinstance(items, list):
            raise _wrong(f"{kind} is wrong", type(items).__name__, "a list of objects")
        read = [_keys(f"{kind}[{i}]", item, [*needed, "anchor", "classes"], needed) for i, item in enumerate(items)]
        made[kind] = tuple(make(**item, relative=relative) for item in read)
    return Rules(**made)


def _keys(where: str, item: object, known: list[str], needed: list[str]) -> Mapping[str, Any]:
    if not isinstance(item, dict):
        raise _wrong(f"{where} is wrong", type(item).__name__, f"an object with {', '.join(known)}")
    unknown, missing = [k for k in item if k not in known], [k for k in needed if k not in item]
    if unknown:
        raise _wrong(f"{where} has an unknown key", ", ".join(unknown), " | ".join(known))
    if missing:
        raise _wrong(f"{where} lacks {', '.join(missing)}", ", ".join(item) or "an empty object", ", ".join(needed))
    return item


def _spoken(kind: str, text: str) -> tuple[str, tuple[Point, ...], bool]:
    name, _, rest = text.rpartition("=")
    shape = "NAME=x1,y1,x2,y2" if kind == "line" else "NAME=x,y,x,y,x,y… of three points or more"
    words = [word.strip() for word in rest.split(",")]
    shares = [word.endswith("%") for word in words]
    if any(shares) and not all(shares):
        raise _wrong(f"the {kind} mixes pixels and %", repr(text), "% behind all of its numbers or none")
    try:
        numbers = [float(word.removesuffix("%")) / (100 if any(shares) else 1) for word in words]
    except ValueError:
        numbers = []
    enough = len(numbers) == 4 if kind == "line" else len(numbers) >= 6 and len(numbers) % 2 == 0
    if not name or not enough:
        raise _wrong(f"the {kind} cannot be read", repr(text), shape)
    return name, tuple(zip(numbers[::2], numbers[1::2], strict=True)), any(shares)


def _checked(rule: Line | Zone, points: object) -> tuple[Point, ...]:
    """The points as tuples. Raises OptionError for a name, anchor, classes or points that are not as described."""
    kind = type(rule).__name__.lower()
    if not isinstance(rule.name, str) or not rule.name.strip():
        raise _wrong(f"a {kind} has no name", repr(rule.name), "a text that is not empty")
    which = f"{kind} {rule.name!r}"
    if rule.anchor not in [*ANCHORS]:
        raise _wrong(f"{which} has an unknown anchor", repr(rule.anchor), " | ".join(ANCHORS))
    if rule.classes is not None:
        texts = isinstance(rule.classes, (list, tuple)) and all(isinstance(c, str) and c for c in rule.classes)
        if not texts or not rule.classes:
            raise _wrong(f"the classes of {which} are wrong", repr(rule.classes), "a list of names; without it, all")
        object.__setattr__(rule, "classes", tuple(rule.classes))
    pairs: Sequence[Any] = points if isinstance(points, (list, tuple)) else [points]
    for pair in pairs:
        if not isinstance(pair, (list, tuple)) or len(pair) != 2 or not all(_is_number(v) for v in pair):
            raise _wrong(f"a point of {which} is wrong", repr(pair), "two numbers, x and y")
        if rule.relative and not all(0 <= v <= 1 for v in pair):
            remedy = "Leave out relative, or %, for pixels."
            raise _wrong(
                f"a point of {which} lies outside of the picture",
                list(pair),
                "shares from 0 to 1, which is 0% to 100%",
                remedy,
            )
    return tuple((float(x), float(y)) for x, y in pairs)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= MOST  # NaN is not


def _wrong(what: str, got: object, expected: str, remedy: str = "docs/analytics.md shows all rules.") -> OptionError:
    return OptionError(problem(what, got=got, expected=expected, remedy=remedy))
