"""A corpus that every machine has: the docstrings of Python's standard library.

Owns how modules are found, read and turned into records. Never imports what it reads. Must not
know servers.
"""

from __future__ import annotations

import ast
import inspect
import sysconfig
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeAlias

from vecserve_client import Record

SKIPPED_FOLDERS: Final = frozenset(
    {"site-packages", "dist-packages", "test", "tests", "idlelib", "lib2to3", "turtledemo"}
)
MIN_CHARACTERS: Final = 12
"""Shorter docstrings say nothing."""

_Definition: TypeAlias = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True, slots=True, kw_only=True)
class Docstring:
    """One documented name; `signature` is empty for modules and classes."""

    name: str
    module: str
    kind: str
    signature: str
    text: str

    @property
    def first_line(self) -> str:
        """The summary."""
        return self.text.partition("\n")[0].strip()

    @property
    def opening(self) -> str:
        """The first paragraph, on one line."""
        return " ".join(self.text.partition("\n\n")[0].split())


def stdlib_folder() -> Path:
    """Where the standard library of the running Python lies."""
    return Path(sysconfig.get_paths()["stdlib"])


def read_corpus(folder: Path) -> Iterator[Docstring]:
    """Read every documented public name below a folder, in the order of the file names.

    Files that are not Python of this version are left out; a name defined twice counts once.
    """
    for path in sorted(folder.rglob("*.py")):
        module = _module_name(path.relative_to(folder))
        if module is not None:
            yield from read_module(module, _source(path))


def read_module(module: str, source: str) -> Iterator[Docstring]:
    """Read the docstrings of one module's source; nothing if it does not parse."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # old escapes in strings are not our business
            tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError):
        return
    seen: set[str] = set()
    for found in _walk(tree, module):
        if found.name not in seen and len(found.text) >= MIN_CHARACTERS:
            seen.add(found.name)
            yield found


def to_record(docstring: Docstring) -> Record:
    """Make the row of a docstring: its text is the name and the opening, which say what it is."""
    return Record(
        id=docstring.name,
        text=f"{docstring.name}: {docstring.opening}",
        payload={
            "module": docstring.module,
            "kind": docstring.kind,
            "signature": docstring.signature,
            "first_line": docstring.first_line,
        },
    )


def _walk(tree: ast.Module, module: str) -> Iterator[Docstring]:
    text = ast.get_docstring(tree)
    if text:
        yield Docstring(name=module, module=module, kind="module", signature="", text=text)
    yield from _walk_body(tree.body, module, module)


def _walk_body(body: list[ast.stmt], module: str, prefix: str) -> Iterator[Docstring]:
    for node in body:
        if not isinstance(node, _Definition) or node.name.startswith("_"):
            continue
        name = f"{prefix}.{node.name}"
        if text := ast.get_docstring(node):
            yield _docstring(node, module, name, text)
        if isinstance(node, ast.ClassDef):
            yield from _walk_body(node.body, module, name)


def _docstring(node: _Definition, module: str, name: str, text: str) -> Docstring:
    is_class = isinstance(node, ast.ClassDef)
    return Docstring(
        name=name,
        module=module,
        kind="class" if is_class else "function",
        signature="" if isinstance(node, ast.ClassDef) else f"({ast.unparse(node.args)})",
        text=inspect.cleandoc(text),
    )


def _module_name(path: Path) -> str | None:
    parts = path.with_suffix("").parts
    if SKIPPED_FOLDERS.intersection(parts) or any("-" in part for part in parts):
        return None
    if any(part.startswith("_") and part != "__init__" for part in parts):
        return None
    return ".".join(part for part in parts if part != "__init__") or None


def _source(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return ""
