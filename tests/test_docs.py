"""The documents keep up with the code."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import typer

from vecserve_server import __version__
from vecserve_server.cli.program import app
from vecserve_server.settings.settings import known_keys

ROOT = Path(__file__).parents[1]
DOCUMENTS = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]


def commands(group: typer.Typer, prefix: str = "") -> list[str]:
    own = [
        f"{prefix}{c.name or c.callback.__name__}" for c in group.registered_commands if c.callback
    ]
    nested = [
        name
        for sub in group.registered_groups
        if sub.typer_instance
        for name in commands(sub.typer_instance, f"{prefix}{sub.name} ")
    ]
    return own + nested


@pytest.mark.parametrize("key", known_keys())
def test_every_setting_is_documented(key: str) -> None:
    assert f"| `{key}` |" in (ROOT / "docs" / "CONFIGURATION.md").read_text()


def test_no_setting_is_documented_that_does_not_exist() -> None:
    text = (ROOT / "docs" / "CONFIGURATION.md").read_text()
    assert set(re.findall(r"^\| `([a-z_.]+)` \|", text, re.MULTILINE)) == set(known_keys())


@pytest.mark.parametrize("command", commands(app))
def test_every_command_is_documented(command: str) -> None:
    text = (ROOT / "docs" / "CLI.md").read_text()
    assert f"`vecserve {command}" in text or f"`{command}`" in text


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(document: Path) -> None:
    targets = re.findall(r"\]\((?!https?://)([^)#]+)", document.read_text())
    missing = [target for target in targets if not (document.parent / target).exists()]
    assert not missing


def test_the_changelog_knows_the_version() -> None:
    assert f"## {__version__}" in (ROOT / "CHANGELOG.md").read_text()
    assert f'version = "{__version__}"' in (ROOT / "pyproject.toml").read_text()


def test_the_seven_files_of_the_architecture_exist() -> None:
    text = (ROOT / "docs" / "ARCHITECTURE.md").read_text()
    named = re.findall(r"^\d\. `([^`]+)`", text, re.MULTILINE)
    assert len(named) == 7
    assert all((ROOT / name).is_file() for name in named)
