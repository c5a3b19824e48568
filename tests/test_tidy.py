"""The size and shape of the code."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MAX_FUNCTION_LINES = 70
MAX_MODULE_LINES = 400
MAX_ROOM_MODULES = 20
MAX_ROOM_LINES = 3500
SOURCES = sorted(
    path
    for folder in ("server", "clients", "tests", "protos")
    for path in (ROOT / folder).rglob("*.py")
    if "_pb2" not in path.name
)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_modules_and_functions_are_small_and_introduced(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    tree = ast.parse(text)
    assert text.count("\n") <= MAX_MODULE_LINES
    if text.strip():
        assert ast.get_docstring(tree), "a module says what it owns"
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            assert lines <= MAX_FUNCTION_LINES, f"{node.name} has {lines} lines"


ROOMS = sorted({path.parent for path in SOURCES if path.is_relative_to(ROOT / "server")})


@pytest.mark.parametrize("room", ROOMS, ids=lambda room: str(room.relative_to(ROOT)))
def test_a_room_can_be_taken_in_at_a_glance(room: Path) -> None:
    modules = [path for path in SOURCES if path.parent == room and path.name != "__init__.py"]
    assert len(modules) <= MAX_ROOM_MODULES
    assert sum(path.read_text("utf-8").count("\n") for path in modules) <= MAX_ROOM_LINES
    assert (room / "__init__.py").is_file() or not modules, "a room says what it owns"
