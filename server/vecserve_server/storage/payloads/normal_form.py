"""The one form in which texts of rows and of queries are compared.

Owns what is folded: case, compatibility forms, accents. Uses Python's Unicode tables alone, so
that it does not matter which SQLite is there. Pure. Must not know how texts are cut.
"""

from __future__ import annotations

import unicodedata
from typing import Final

_ACCENTS: Final = (
    (0x0300, 0x036F), (0x0483, 0x0487), (0x0591, 0x05BD), (0x05BF, 0x05BF), (0x05C1, 0x05C2),
    (0x05C4, 0x05C5), (0x05C7, 0x05C7), (0x0610, 0x061A), (0x064B, 0x065F), (0x0670, 0x0670),
    (0x06D6, 0x06DC), (0x06DF, 0x06E4), (0x06E7, 0x06E8), (0x06EA, 0x06ED), (0x08CA, 0x08FF),
    (0x1AB0, 0x1AFF), (0x1DC0, 0x1DFF), (0x20D0, 0x20FF), (0xFE00, 0xFE0F), (0xFE20, 0xFE2F),
    (0xE0100, 0xE01EF),
)  # fmt: skip
"""Marks that say how a letter sounds or looks; without them, people write the same word.

The vowel signs of Indic and South-East Asian scripts are not among them: they are letters.
"""
_ALTERNATIVES: Final = {
    "\N{CYRILLIC SMALL LETTER IO}": "\N{CYRILLIC SMALL LETTER IE}",
    "\N{CYRILLIC SMALL LETTER IE WITH GRAVE}": "\N{CYRILLIC SMALL LETTER IE}",
    "\N{CYRILLIC SMALL LETTER I WITH GRAVE}": "\N{CYRILLIC SMALL LETTER I}",
    "\N{ARABIC TATWEEL}": None,
}
_WRITTEN_ALIKE: Final = dict.fromkeys("\u2010\u2012\u2013\u2014\u2212", "-") | dict.fromkeys(
    "\u2018\u2019\u02bc", "'"
)
"""Symbols that people exchange, where symbols are kept."""
_BREAKS: Final = "\N{ZERO WIDTH SPACE}"
_FOLDED_SCRIPTS: Final = ("LATIN ", "GREEK ")


class NormalForm:
    """Folds texts. What it learns of a character it keeps, one entry for each. Any thread."""

    def __init__(self, *, keeps_symbols: bool) -> None:
        """Put a space in place of what is no letter, mark or digit, unless it `keeps_symbols`."""
        self._folds = _Folds(keeps_symbols)

    def of(self, text: str) -> str:
        """Return the text in the form that is compared, its separators as spaces."""
        folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
        return folded.translate(self._folds)


class _Folds(dict[int, str | None]):
    """A table for `str.translate` that is filled when a character is first met."""

    def __init__(self, keeps_symbols: bool) -> None:
        super().__init__()
        self._keeps_symbols = keeps_symbols

    def __missing__(self, code: int) -> str | None:
        folded = self[code] = _folded(chr(code), keeps_symbols=self._keeps_symbols)
        return folded


def _folded(character: str, *, keeps_symbols: bool) -> str | None:
    if character in _ALTERNATIVES:
        return _ALTERNATIVES[character]
    if keeps_symbols and character in _WRITTEN_ALIKE:
        return _WRITTEN_ALIKE[character]
    category = unicodedata.category(character)
    if category.startswith("M"):
        is_accent = any(first <= ord(character) <= last for first, last in _ACCENTS)
        return None if is_accent else character
    if category == "Cf":
        return " " if character in _BREAKS else None
    if category.startswith("L"):
        return _without_accents(character)
    is_kept = category.startswith("N") or category == "Co"
    return character if is_kept or (keeps_symbols and category[0] in "PS") else " "


def _without_accents(letter: str) -> str:
    base = unicodedata.normalize("NFD", letter)[0]
    return base if unicodedata.name(base, "").startswith(_FOLDED_SCRIPTS) else letter
