"""Which texts find which, in every script."""

# ruff: noqa: RUF001
from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.storage.payloads import canonical
from vecserve_server.domain.collections import FieldSpec, FieldType, TextAnalysis, Tokeniser
from vecserve_server.domain.rows import NewRow
from vecserve_server.storage.payloads.terms import Terms
from vecserve_server.storage.payloads.word_index import LexicalMatches
from vecserve_server.storage.rows.operations import Upsert
from vecserve_server.storage.rows.row_log import RowLog

WORDS, TRIGRAM = TextAnalysis(), TextAnalysis(tokeniser=Tokeniser.TRIGRAM)
ROWS = (
    "école Müller Việt",
    "पानी",
    "पान पुनः",
    "東京タワー観光",
    "iPhone15用ケース",
    "C++17 AB-12 1.1.6",
    "مُحَمَّد שָׁלוֹם",
    "กาแฟร้อนมาก",
    "ﬁne ＡＢＣ ㎞",
    "தமிழ் தமி",
    "iPhone15용 ёлка",
    "ಕನ್ನಡ red-shoe don’t",
    "ភាសាខ្មែរ ພາສາລາວ မြန်မာ",
    "上海地铁洗衣机",
    "می‌خواهم soft\u00adhyphen",
)
FOUND_BY_WORDS = {
    "école": [0], "e\u0301cole": [0], "ECOLE": [0], "viet": [0], "mu\u0308ller": [0],
    "पानी": [1], "पान": [2], "पुन": [], "पुनः": [2],
    "東京": [3], "東": [3], "京都": [], "タワー": [3], "パワー": [], "観光": [3], "ﾀﾜｰ": [3],
    "iPhone15": [4, 10], "iphone": [], "ケース": [4], "用": [4],
    "محمد": [6], "مُحَمَّد": [6], "שלום": [6],
    "กาแฟ": [7], "ร้อน": [7], "รอน": [],
    "fine": [8], "abc": [8], "km": [8], "ｆｉｎｅ": [8],
    "தமிழ்": [9], "தமி": [9], "தமிழ": [],
    "елка": [10], "용": [10],
    "ಕನ್ನಡ": [11], "ಕನ": [], "don't": [11], "shoe": [11],
    "ភាសា": [12], "ខ្មែរ": [12], "ພາສາ": [12], "မြန်မာ": [12],
    "地铁": [13], "洗衣机": [13],
    "می‌خواهم": [14], "میخواهم": [14], "softhyphen": [14],
}  # fmt: skip
FOUND_BY_PARTS = {
    "東京": [3], "東": [3], "タワ": [3], "C++17": [5], "c++": [5], "AB-12": [5], "AB‑12": [5],
    "1.1.6": [5], "1.1": [5], "B-1": [5], "AB12": [], "C++18": [], "e\u0301co": [0],
    "Phone1": [4, 10],
    "15用": [4], "don't": [11], "red_shoe": [11], "पानी": [1], "ाफ": [], "hon": [4, 10], "fi": [8],
    "(AB-12).": [5],
}  # fmt: skip


@contextmanager
def holding(folder: Path, analysis: TextAnalysis, texts: tuple[str, ...]) -> Iterator[RowLog]:
    field = FieldSpec(name="title", type=FieldType.TEXT)
    path = folder / f"{analysis.tokeniser}.sqlite"
    log = RowLog.open(path, dim=1, model_digest="0f", fields=[field], text_analysis=analysis)
    rows = [
        NewRow(
            id=str(number), vector=np.ones(1, np.float32), payload_json=canonical({"title": text})
        )
        for number, text in enumerate(texts)
    ]
    log.commit([Upsert(row) for row in rows])
    yield log
    log.close()


def ask(log: RowLog, text: str) -> LexicalMatches:
    return log.queries.lexical(text, 99, row_count=log.count())


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[TextAnalysis, RowLog]]:
    folder = tmp_path_factory.mktemp("logs")
    with holding(folder, WORDS, ROWS) as words, holding(folder, TRIGRAM, ROWS) as grams:
        yield {WORDS: words, TRIGRAM: grams}


@pytest.mark.parametrize("text", FOUND_BY_WORDS)
def test_words_find_the_rows_that_hold_them(logs: dict[TextAnalysis, RowLog], text: str) -> None:
    found = sorted(int(seq) - 1 for seq in ask(logs[WORDS], text).seqs)
    assert found == FOUND_BY_WORDS[text]


@pytest.mark.parametrize("text", FOUND_BY_PARTS)
def test_parts_find_the_rows_that_hold_them(logs: dict[TextAnalysis, RowLog], text: str) -> None:
    found = sorted(int(seq) - 1 for seq in ask(logs[TRIGRAM], text).seqs)
    assert found == FOUND_BY_PARTS[text]


def test_what_cannot_be_looked_for_is_named(logs: dict[TextAnalysis, RowLog]) -> None:
    words, parts = ask(logs[WORDS], "red & shoe ?!"), ask(logs[TRIGRAM], "red b & 京")
    assert (words.terms, words.dropped_terms) == (("red", "shoe"), ("&", "?!"))
    assert (parts.terms, parts.dropped_terms) == (("red", "京"), ("b", "&"))


def tokens(analysis: TextAnalysis, held: str) -> list[str]:
    """Cut as SQLite's tokeniser does."""
    separators = r"\s+" if analysis is TRIGRAM else r"[\x00-/:-@\[-`{-\x7f]+"
    return [token for token in re.split(separators, held.lower()) if token]


LETTERS = st.text("aÀéß ﬁＡ東京たタกานी م\u0301\u093f-+.1²", max_size=12)


@given(LETTERS, st.sampled_from(["NFC", "NFD", "NFKC", "NFKD"]))
@settings(max_examples=300)
def test_all_forms_of_a_text_are_one(text: str, form: str) -> None:
    other = unicodedata.normalize(form, text)  # type: ignore[arg-type]
    for analysis in (WORDS, TRIGRAM):
        terms = Terms(analysis)
        assert tokens(analysis, terms.of_row(other)) == tokens(analysis, terms.of_row(text))
        assert terms.of_query(other.upper()).terms == terms.of_query(text.upper()).terms


@given(st.lists(st.text(st.characters(codec="utf-8"), max_size=9), min_size=1, max_size=4))
@settings(max_examples=25, deadline=None)
def test_a_row_is_found_by_each_of_its_words(
    tmp_path_factory: pytest.TempPathFactory, words: list[str]
) -> None:
    words = [word.replace("\0", "") for word in words]
    for analysis in (WORDS, TRIGRAM):
        folder = tmp_path_factory.mktemp("log")
        with holding(folder, analysis, (" ".join(words),)) as log:
            for word in words:
                found = ask(log, word)
                assert found.seqs.tolist() == ([1] if found.terms else [])
