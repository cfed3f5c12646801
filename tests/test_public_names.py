"""What `eyas` offers by name, that importing it stays light, and that everything public says what it does."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

import eyas

SOURCE = ROOT / "src" / "eyas"
NAMES = [
    "BackendError",
    "BuildSpec",
    "BusyError",
    "CardError",
    "Classification",
    "DataError",
    "DeadlineError",
    "Detections",
    "Embedding",
    "EyasError",
    "Frame",
    "ImageError",
    "Letterbox",
    "Model",
    "ModelCard",
    "ModelError",
    "Normalise",
    "OptionError",
    "Pending",
    "Prediction",
    "QueueSpec",
    "SinkError",
    "SourceError",
    "TorchModule",
    "cascade",
    "draw",
    "from_torch",
    "load",
    "tracing",
]


def test_the_public_names_are_these() -> None:
    assert eyas.__all__ == NAMES
    assert dir(eyas) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_each_name_resolves_to_a_thing_of_that_name(name: str) -> None:
    thing = getattr(eyas, name)
    assert thing.__name__ == name
    assert thing.__module__.startswith("eyas.")
    assert thing.__doc__


def test_every_error_is_public() -> None:
    from eyas import errors

    kinds = {name for name, thing in vars(errors).items() if isinstance(thing, type)}
    assert kinds == {name for name in NAMES if name.endswith("Error")}
    assert all(issubclass(getattr(errors, name), eyas.EyasError) for name in kinds)


def test_unknown_names() -> None:
    with pytest.raises(AttributeError, match="module 'eyas' has no attribute 'lode'"):
        _ = eyas.lode
    assert not hasattr(eyas, "predictions")


def test_type_checkers_see_the_same_names() -> None:
    """The lazy table and the imports under TYPE_CHECKING are written twice: they must agree."""
    tree = ast.parse((SOURCE / "__init__.py").read_text(encoding="utf-8"))
    (block,) = [n for n in tree.body if isinstance(n, ast.If)]
    seen = {alias.name: node.module for node in block.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert seen == {name: f"eyas.{home}" for name, home in eyas._MODULE.items()}
    assert sorted(seen) == sorted(NAMES)
    assert (SOURCE / "py.typed").is_file()


def test_importing_needs_no_installed_package() -> None:
    """-I and -S: no site-packages at all, so that any import beyond the standard library fails."""
    program = f"""
import sys
sys.path.insert(0, {str(SOURCE.parent)!r})
import eyas, eyas.errors, eyas.cli
assert eyas.__version__ and dir(eyas)
eyas.cli.parser()
try:
    import numpy
except ImportError:
    print("bare")
"""
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-W", "error", "-c", program],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stderr == ""
    assert done.stdout == "bare\n"


def undocumented(path: Path) -> list[str]:
    """Public modules, classes, functions and methods of one file that lack a docstring."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    missing = [] if ast.get_docstring(tree) or not tree.body else [f"{path}: the module"]

    def visit(body: list[ast.stmt], where: str) -> None:
        for node in body:
            if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)) or node.name[0] == "_":
                continue
            overload = any(isinstance(d, ast.Name) and d.id == "overload" for d in node.decorator_list)
            if not ast.get_docstring(node) and not overload:
                missing.append(f"{path}:{node.lineno}: {where}{node.name}")
            if isinstance(node, ast.ClassDef):
                visit(node.body, f"{node.name}.")

    visit(tree.body, "")
    return missing


def test_everything_public_has_a_docstring() -> None:
    files = sorted(SOURCE.rglob("*.py"))
    assert len(files) > 20
    assert [line for path in files for line in undocumented(path)] == []


def test_the_docstring_check_can_fail(tmp_path: Path) -> None:
    file = tmp_path / "m.py"
    file.write_text('"""M."""\nclass A:\n    """A."""\n    def f(self): ...\n    def _g(self): ...\ndef h(): ...\n')
    assert [line.rpartition(" ")[2] for line in undocumented(file)] == ["A.f", "h"]
