"""What README and docs show, runs."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

from eyas.build import open_network
from eyas.card import card_from_dict, card_to_dict
from eyas.cli import main, parser

PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")])


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def first_words(text: str) -> list[str]:
    """Letters only: scores and corners differ a little from CPU to CPU."""
    return re.findall(r"[a-z][a-z ]+", text)


@pytest.mark.parametrize("code", [c for p in PAGES for c in blocks(p, "python")])
def test_python_blocks_run(code: str):
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_readme_shows_what_its_python_prints():
    code, shown = blocks(ROOT / "README.md", "python")[0], blocks(ROOT / "README.md", "text")[0]
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert first_words(done.stdout) == first_words(shown)


def test_the_readme_shows_what_its_command_prints(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    shown = next(b for b in blocks(ROOT / "README.md", "console") if b.startswith("$ eyas predict samples"))
    command, output = shown.split("\n", 1)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "samples").symlink_to(ROOT / "samples")
    assert main(shlex.split(command)[2:]) == 0
    assert first_words(capsys.readouterr().out) == first_words(output)
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["astronaut.jpg", "chelsea.jpg", "coffee.jpg"]


@pytest.mark.parametrize("line", [x for p in PAGES for b in blocks(p, "console") for x in b.splitlines()])
def test_commands_that_are_shown_are_understood(line: str):
    if line.startswith("$ eyas "):
        assert parser().parse_args(shlex.split(line, comments=True)[2:]).run


def test_the_partial_card_in_the_docs_fits():
    (text,) = blocks(ROOT / "docs" / "models.md", "json")
    card = card_to_dict(open_network("nanodet").card)
    assert card_from_dict(card | json.loads(text)).resize == "stretch"


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_lead_somewhere(page: Path):
    for link in re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8")):
        if "://" not in link:
            assert (page.parent / link).exists(), link


def test_make_targets_in_the_readme_exist():
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"`make ([a-z-]+)`|\$ make ([a-z-]+)", (ROOT / "README.md").read_text(encoding="utf-8")):
        assert re.search(rf"^{target[0] or target[1]}:", text, re.MULTILINE)


def test_docs_have_no_machine_paths():
    for page in PAGES:
        assert not re.search(r"/work/|/root/|/home/", page.read_text(encoding="utf-8")), page
