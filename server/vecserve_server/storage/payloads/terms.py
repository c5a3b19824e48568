"""What the word index holds of a text, and what it is asked for.

Owns how texts are cut: at spaces and where the script changes; scripts that put no spaces between
words into overlapping pairs of characters; for a trigram index everything into overlapping triples.
Rows and queries are cut by the same rules, here and not in SQLite. Pure. Must not know SQL.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from vecserve_server.domain.collections import TextAnalysis, Tokeniser
from vecserve_server.storage.payloads.normal_form import NormalForm

VERSION: Final = f"terms 1, Unicode {unicodedata.unidata_version}"
"""Changes whenever a text may be cut in another way."""
PUNCTUATION: Final = "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~"
LONGEST_WORD: Final = 8
"""Characters of a script without spaces that are looked for as one word."""
_WINDOW: Final = 4
"""Characters that are looked for together where there are more."""
_PAIR, _TRIPLE = 2, 3

_LATIN = r"a-z0-9\u00aa-\u02ff\u0370-\u03ff\u1d00-\u1dbf\u1e00-\u1fff\u2c60-\u2c7f\ua720-\ua7ff"
_HANGUL = r"\u1100-\u11ff\u3130-\u318f\ua960-\ua97f\uac00-\ud7ff"
_HIRAGANA = r"\u3041-\u309f\U0001b001-\U0001b11f"
_KATAKANA = r"\u30a1-\u30ff\u31f0-\u31ff"
_HAN = (
    r"\u2e80-\u2fdf\u3005-\u3007\u3021-\u3029\u3038-\u303b\u3100-\u312f\u31a0-\u31bf"
    r"\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
)
# Thai, Lao; Myanmar, Khmer; Tai Le, New Tai Lue, Tai Tham; Balinese, Javanese, Cham, Tai Viet.
_SOUTH_EAST = (
    r"\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u1950-\u19df\u1a20-\u1aaf\u1b00-\u1b7f"
    r"\ua980-\ua9ff\uaa00-\uaadf"
)
_UNSPACED = _HAN + _HIRAGANA + _KATAKANA + _SOUTH_EAST
_PLAIN = re.compile(rf"[\s{_LATIN}]*")
_RUN = re.compile(
    rf"(?P<latin>[{_LATIN}]+)|(?P<hangul>[{_HANGUL}]+)|(?P<kana>[{_KATAKANA}]+)"
    rf"|(?P<han>[{_HAN}{_HIRAGANA}][{_HAN}{_HIRAGANA}\u30fc]*)|(?P<south_east>[{_SOUTH_EAST}]+)"
    rf"|(?P<other>[^\s{_LATIN}{_HANGUL}{_UNSPACED}][^\sa-z{_HANGUL}{_UNSPACED}]*)"
)
_ALL_HIRAGANA = re.compile(rf"[{_HIRAGANA}\u30fc]+")
_ANY_UNSPACED = re.compile(rf"[{_UNSPACED}]")
_SENTENCE_MARKS: Final = (
    ".,;:!?\"'()[]{}<>"
    "\u00ab\u00bb\u2039\u203a\u201c\u201d\u201e\u2018\u2019\u201a\u2026\u3001\u3002\u300c"
    "\u300d\u300e\u300f\u3010\u3011\u300a\u300b\u3008\u3009\u3014\u3015\u00a1\u00bf\u2013\u2014"
)
"""At the ends of a word they belong to the sentence."""


@dataclass(frozen=True, slots=True)
class Term:
    """Something that is looked for."""

    text: str
    """As people read it."""
    match: str
    """As an FTS5 query; quoted, none of it is syntax."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cut:
    """What a query is made of, in its order, nothing twice."""

    terms: Sequence[Term]
    unusable: Sequence[str]
    """Parts without anything that can be looked for."""


class Terms:
    """Cuts the texts of one collection. Any thread."""

    def __init__(self, analysis: TextAnalysis) -> None:
        self._is_trigram = analysis.tokeniser is Tokeniser.TRIGRAM
        self._words = NormalForm(keeps_symbols=False)
        self._literal = NormalForm(keeps_symbols=True)

    def of_row(self, text: str) -> str:
        """Return what the index holds of a text: tokens between spaces."""
        if self._is_trigram:
            chunks = self._literal.of(text).split()
            return " ".join(gram for chunk in chunks for gram in _grams(chunk, _TRIPLE))
        if text.isascii():
            return text  # SQLite's tokenizer folds it and cuts it at everything else
        folded = self._words.of(text)
        if _PLAIN.fullmatch(folded):
            return folded
        return " ".join(_tokens(_RUN.finditer(folded)))

    def of_query(self, text: str) -> Cut:
        """Cut a query into what is looked for."""
        terms: dict[str, Term] = {}
        unusable: dict[str, None] = {}
        for part in text.split():
            found = list(self._literals(part) if self._is_trigram else self._of_part(part))
            terms |= {term.text: term for term in found if term.text not in terms}
            if not found and (shown := "".join(filter(str.isprintable, part))):
                unusable[shown] = None
        return Cut(terms=list(terms.values()), unusable=list(unusable))

    def _of_part(self, part: str) -> Iterator[Term]:
        for run in _RUN.finditer(self._words.of(part)):
            yield from _terms_of_run(run)

    def _literals(self, part: str) -> Iterator[Term]:
        """Look for what is written, punctuation included, and for the words inside it."""
        for chunk in self._literal.of(part).split():
            literal = chunk.strip(_SENTENCE_MARKS) or chunk
            if len(literal) > LONGEST_WORD and _ANY_UNSPACED.search(literal):
                for run in _RUN.finditer(self._words.of(literal)):
                    units = list(run.group())
                    windows = _windows(units, _TRIPLE) if _is_unspaced(run) else [units]
                    yield from (_term(window, _TRIPLE) for window in windows)
                continue
            # Most rows hold any one letter.
            if len(literal) > 1 or _ANY_UNSPACED.match(literal):
                yield _term(literal, _TRIPLE)
            words = self._words.of(literal).split()
            yield from (_term(word, _TRIPLE) for word in words if len(word) >= _TRIPLE)


def _tokens(runs: Iterable[re.Match[str]]) -> Iterator[str]:
    for run in runs:
        if _is_unspaced(run):
            yield from _grams(_units(run), _PAIR)
        else:
            yield run.group()


def _terms_of_run(run: re.Match[str]) -> Iterator[Term]:
    if not _is_unspaced(run):
        yield Term(run.group(), _quoted([run.group()]))
        return
    units = _units(run)
    if run.lastgroup == "han":
        yield from _ideographs(units)
        return
    windows = [units] if len(units) <= LONGEST_WORD else _windows(units, _WINDOW)
    yield from (_term(window, _PAIR) for window in windows)


def _ideographs(units: Sequence[str]) -> Iterator[Term]:
    """Two ideographs are about a word; hiragana among them are mostly endings and particles."""
    text = "".join(units)
    if _ALL_HIRAGANA.fullmatch(text):
        yield from (_term(window, _PAIR) for window in _windows(units, _WINDOW))
        return
    for pair in _windows(units, _PAIR):
        if not _ALL_HIRAGANA.fullmatch("".join(pair)):
            yield _term(pair, _PAIR)


def _is_unspaced(run: re.Match[str]) -> bool:
    return run.lastgroup in ("han", "kana", "south_east")


def _units(run: re.Match[str]) -> Sequence[str]:
    """Take a run apart into characters with their marks."""
    if run.lastgroup != "south_east":
        return run.group()
    units: list[str] = []
    for character in run.group():
        if units and unicodedata.category(character).startswith("M"):
            units[-1] += character
        else:
            units.append(character)
    return units


def _grams(units: Sequence[str], size: int) -> Iterator[str]:
    """Yield what begins at each unit, so that a search for a shorter text is one for a prefix."""
    for start in range(len(units)):
        yield "".join(units[start : start + size])


def _windows(units: Sequence[str], size: int) -> Iterator[Sequence[str]]:
    for start in range(max(1, len(units) - size + 1)):
        yield units[start : start + size]


def _term(units: Sequence[str], size: int) -> Term:
    text = "".join(units)
    if len(units) < size:
        return Term(text, f"{_quoted([text])}*")
    return Term(text, _quoted("".join(window) for window in _windows(units, size)))


def _quoted(tokens: Iterable[str]) -> str:
    """Write a phrase of FTS5."""
    phrase = " ".join(tokens).replace('"', '""')
    return f'"{phrase}"'
