"""The docstrings that the demo indexes."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vecserve_server.measuring.datasets.stdlib_corpus import (
    Docstring,
    read_corpus,
    read_module,
    to_record,
)

SOURCE = textwrap.dedent(
    '''
    """A module about fruit."""

    class Apple:
        """An apple of some colour.

        It has a price.
        """

        def peel(self, depth=1, *, knife: str = "small") -> None:
            """Take the skin off, to some depth."""

        def _secret(self):
            """Never told to anyone."""

    async def ripen(days):
        """Wait until the fruit is ripe."""

    def plain():
        return 1

    def short():
        """Tiny."""
    '''
)


def test_modules_classes_and_functions_are_read_with_their_signatures() -> None:
    found = {each.name: each for each in read_module("fruit", SOURCE)}
    assert {name: each.kind for name, each in found.items()} == {
        "fruit": "module",
        "fruit.Apple": "class",
        "fruit.Apple.peel": "function",
        "fruit.ripen": "function",
    }
    assert found["fruit.Apple.peel"].signature == "(self, depth=1, *, knife: str='small')"


def test_a_record_says_what_the_name_is_about() -> None:
    apple = next(each for each in read_module("fruit", SOURCE) if each.kind == "class")
    record = to_record(apple)
    assert record.id == "fruit.Apple"
    assert record.text == "fruit.Apple: An apple of some colour."
    assert record.payload == {
        "module": "fruit",
        "kind": "class",
        "signature": "",
        "first_line": "An apple of some colour.",
    }


@given(st.text(max_size=200))
def test_source_that_is_not_python_is_left_out(source: str) -> None:
    for found in read_module("odd", source):
        assert found.text


def test_private_modules_tests_and_packages_of_others_are_left_out(tmp_path: Path) -> None:
    for name in (
        "good.py",
        "pkg/__init__.py",
        "pkg/_private.py",
        "test/inside.py",
        "site-packages/other.py",
        "broken.py",
    ):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text('"""Documented well enough."""\n' if name != "broken.py" else "def (")
    assert [found.name for found in read_corpus(tmp_path)] == ["good", "pkg"]


@pytest.mark.slow
def test_the_installed_library_gives_thousands_of_unique_records(
    stdlib_corpus: Sequence[Docstring],
) -> None:
    names = {found.name for found in stdlib_corpus}
    assert len(stdlib_corpus) > 2000
    assert len(names) == len(stdlib_corpus)
    assert "zipfile.ZipFile.read" in names
