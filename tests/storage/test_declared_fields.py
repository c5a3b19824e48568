"""Declared fields and the word index follow the rows, whatever is written and reopened."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.storage.payloads import CONDITIONS, DECLARED, PAYLOADS, canonical, matches, value_of
from vecserve_server.domain.collections import FieldSpec, FieldType, TextAnalysis, Tokeniser
from vecserve_server.domain.conditions import Bounds, Condition, InstantIn, NumberIn, OneOf
from vecserve_server.domain.rows import NewRow
from vecserve_server.errors import CorruptData, DeadlineExceeded, FailedPrecondition
from vecserve_server.storage.payloads.terms import Terms
from vecserve_server.storage.payloads.word_index import WordIndex
from vecserve_server.storage.rows.operations import Conflict, Delete, Operation, Upsert
from vecserve_server.storage.rows.row_checks import Damaged
from vecserve_server.storage.rows.row_log import RowLog

TITLE = FieldSpec(name="title", type=FieldType.TEXT)
BODY = FieldSpec(name="body.text", type=FieldType.TEXT)
BRAND = FieldSpec(name="brand", type=FieldType.KEYWORD)
PORTER = TextAnalysis(porter=True)
WORDS = ["red", "Reds", "shoe", "shoes", "zoë", "ZOE", "x1", "1"]
TITLES = st.lists(st.sampled_from(WORDS), max_size=4).map(" ".join)
IDS = st.sampled_from("abcde")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "rows.sqlite"


@pytest.fixture
def log(path: Path) -> Iterator[RowLog]:
    log = opened(path, [TITLE, BODY, BRAND])
    yield log
    log.close()


def opened(path: Path, fields: list[FieldSpec], analysis: TextAnalysis = PORTER) -> RowLog:
    return RowLog.open(path, dim=1, model_digest="0f", fields=fields, text_analysis=analysis)


def upsert(row_id: str, payload: dict[str, object], expected_seq: int | None = None) -> Upsert:
    vector = np.ones(1, np.float32)
    row = NewRow(id=row_id, vector=vector, payload_json=canonical(payload))
    return Upsert(row, expected_seq)


def found_ids(log: RowLog, text: str, condition: Condition | None = None) -> list[str]:
    seqs = log.queries.lexical(text, 100, row_count=log.count(), condition=condition).seqs
    rows = log.by_seq(seqs.tolist())
    return [rows[seq].id for seq in seqs.tolist()]


PAYLOAD_WRITES = st.builds(upsert, IDS, PAYLOADS | st.builds(dict, n=TITLES))
OPERATIONS = st.lists(PAYLOAD_WRITES | st.builds(Delete, IDS), max_size=8)


@given(st.lists(OPERATIONS, max_size=4), CONDITIONS)
@settings(max_examples=40, deadline=None)
def test_filters_and_words_find_what_is_live(
    tmp_path_factory: pytest.TempPathFactory,
    transactions: list[list[Operation]],
    condition: Condition,
) -> None:
    log = opened(tmp_path_factory.mktemp("log") / "rows.sqlite", list(DECLARED), TextAnalysis())
    live: dict[str, dict[str, object]] = {}
    for operations in transactions:
        log.commit(operations)
        for operation in operations:
            live.pop(operation.id, None)
            if isinstance(operation, Upsert):
                live[operation.id] = json_of(operation)
    kept = {row_id for row_id, payload in live.items() if matches(condition, payload)}
    rows = log.by_seq(log.queries.seqs(condition).tolist())
    assert {row.id for row in rows.values()} == kept
    assert log.queries.count(condition) == len(kept)
    page = log.scan(after_seq=0, limit=99, condition=condition)
    keys = log.queries.keys(condition, after_seq=0, limit=99)
    assert [(row.id, row.seq) for row in page] == keys
    for word in ("red", "zoe", "1"):
        holders = {row_id for row_id, payload in live.items() if word in lower_words(payload)}
        assert set(found_ids(log, word)) == holders
        assert set(found_ids(log, word, condition)) == holders & kept
    log.close()


def json_of(operation: Upsert) -> dict[str, object]:
    payload = json.loads(operation.row.payload_json)
    assert isinstance(payload, dict)
    return payload


def lower_words(payload: dict[str, object]) -> list[str]:
    value = value_of(payload, "n")
    return words_of(value.split("\0")[0]) if isinstance(value, str) else []


def words_of(text: str) -> list[str]:
    return [term.text for term in Terms(TextAnalysis()).of_query(text).terms]


def test_words_are_stemmed_and_folded_over_all_declared_fields(log: RowLog) -> None:
    log.commit(
        [
            upsert("a", {"title": "Running shoes", "body": {"text": "for Zoë"}}),
            upsert("b", {"title": "A shoe", "body": "no object", "brand": "zoe"}),
            upsert("c", {"title": 7}),
        ]
    )
    assert found_ids(log, "ZOE runs") == ["a"]
    assert sorted(found_ids(log, "shoes")) == ["a", "b"]
    assert found_ids(log, "nothing") == found_ids(log, "?!") == found_ids(log, "") == []


@pytest.mark.parametrize(
    "text",
    ['"', 'a" OR "b', "title:red", "red*", "red NEAR(blue)", "red AND", "^red", "-red", "(", "*",
     "{title} : red", "red + shoe", "NOT", "red\0shoe", "'", "_"],
)  # fmt: skip
def test_nothing_in_a_text_is_syntax(log: RowLog, text: str) -> None:
    log.commit([upsert("a", {"title": "red shoe"}), upsert("b", {"title": "blue"})])
    words = set(words_of(text))
    expected = {row for row, held in (("a", {"red", "shoe"}), ("b", {"blue"})) if words & held}
    assert set(found_ids(log, text)) == expected


@given(st.text(max_size=60))
@settings(max_examples=50, deadline=None)
def test_any_text_is_a_query(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    for analysis in (PORTER, TextAnalysis(tokeniser=Tokeniser.TRIGRAM)):
        log = opened(tmp_path_factory.mktemp("log") / "rows.sqlite", [TITLE], analysis)
        log.commit([upsert("a", {"title": "red"})])
        found = found_ids(log, text)
        assert found == ["a"] if "red" in words_of(text) else set(found) <= {"a"}
        log.close()


def test_trigrams_find_parts_of_words(path: Path) -> None:
    log = opened(path, [TITLE], TextAnalysis(tokeniser=Tokeniser.TRIGRAM))
    log.commit([upsert("a", {"title": "Laufschuhe"}), upsert("b", {"title": "東京都庁"})])
    assert found_ids(log, "schuh") == ["a"]
    assert found_ids(log, "東京都") == ["b"]
    assert found_ids(log, "la") == ["a"]
    assert found_ids(log, "ab l") == []
    log.close()


def test_the_best_come_first_and_scores_are_positive(log: RowLog) -> None:
    log.commit([upsert(f"x{n}", {"title": "filler"}) for n in range(20)])
    log.commit([upsert("b", {"title": "red red"}), upsert("a", {"title": "red shoe"})])
    found = log.queries.lexical("red shoe", 10, row_count=log.count())
    assert found_ids(log, "red shoe") == ["a", "b"]
    assert found.scores.tolist() == sorted(found.scores.tolist(), reverse=True)
    assert (found.scores > 0).all()
    assert (found.terms, found.dropped_terms, found.is_cut) == (("red", "shoe"), (), False)


def test_work_is_bounded_by_dropping_the_most_frequent_words(path: Path) -> None:
    log = opened(path, [TITLE])
    log.commit([upsert(f"r{n}", {"title": f"the word{n % 50} n{n}"}) for n in range(500)])
    assert log.queries._words is not None
    words = WordIndex(log.queries._declared, scored_rows=100)
    with log.queries._readers.snapshot() as reader:
        kept = words.search(reader, "the word7 n7 unknown", 10, row_count=500, where=None)
        alone = words.search(reader, "the", 10, row_count=500, where=None)
        long = " ".join(f"n{n}" for n in range(40))
        many = words.search(reader, long, 99, row_count=500, where=None)
    assert (kept.terms, kept.dropped_terms) == (("word7", "n7", "unknown"), ("the",))
    assert len(kept.seqs) == 10
    assert not kept.is_cut
    assert (alone.terms, alone.is_cut, len(alone.seqs)) == (("the",), True, 10)
    assert (len(many.terms), len(many.dropped_terms)) == (32, 8)
    log.close()


def test_a_read_that_takes_too_long_is_stopped_and_its_connection_stays_usable(
    log: RowLog,
) -> None:
    log.commit([upsert(f"r{n}", {"title": "the", "n": n}) for n in range(3000)])
    condition = NumberIn(field="n", bounds=Bounds(gte=0))
    late = [False, True, True, True, True, True, True, True]
    for read in (
        lambda: log.queries.count(condition, is_late=lambda: late.pop(0)),
        lambda: log.queries.lexical("the", 9, row_count=3000, is_late=lambda: True),
    ):
        with pytest.raises(DeadlineExceeded, match="in the time that was left"):
            read()
    assert log.queries.count(condition) == 3000


def test_declarations_change_with_the_rows_in_place(path: Path) -> None:
    log = opened(path, [], TextAnalysis())
    log.commit([upsert("a", {"title": "running", "brand": "x", "day": "2024-01-02"})])
    with pytest.raises(FailedPrecondition, match="no field of type TEXT"):
        log.queries.lexical("red", 9, row_count=1)
    log.close()
    day = FieldSpec(name="day", type=FieldType.DATETIME)
    for fields, analysis, runs in (
        ([TITLE, BRAND], PORTER, ["a"]),
        ([TITLE, BRAND], PORTER, ["a"]),
        ([day, TITLE], TextAnalysis(), []),
        ([TITLE, day], PORTER, ["a"]),
    ):
        log = opened(path, fields, analysis)
        assert found_ids(log, "run") == runs
        assert log.queries.count(OneOf(field="brand", values=("x",))) == 1
        assert log.queries.count(InstantIn(field="day", bounds=Bounds(gt=0))) == 1
        log.close()
    opened(path, []).close()
    raw = sqlite3.connect(path)
    names = {name for (name,) in raw.execute("SELECT name FROM sqlite_master")}
    raw.close()
    assert not [name for name in names if "field_" in name or "words" in name]


def test_words_of_removed_rows_can_be_erased_from_the_file(path: Path) -> None:
    log = opened(path, [TITLE])
    log.commit([upsert("a", {"title": "geheimnis"}), upsert("b", {"title": "other"})])
    log.commit([Delete("a")])
    log.compact()
    assert found_ids(log, "other") == ["b"]
    log.close()
    assert b"geheimni" not in path.read_bytes()


def test_a_write_on_condition_is_done_only_if_the_row_is_as_expected(log: RowLog) -> None:
    assert log.commit([upsert("a", {}, expected_seq=0)]).seqs == (1,)
    committed = log.commit(
        [
            upsert("a", {"n": 1}, expected_seq=0),
            upsert("a", {"n": 2}, expected_seq=1),
            upsert("a", {"n": 3}, expected_seq=1),
            Delete("a", expected_seq=1),
            Delete("b", expected_seq=4),
            upsert("b", {}, expected_seq=7),
        ]
    )
    assert committed.seqs == (Conflict(1), 2, Conflict(2), Conflict(2), Conflict(0), Conflict(0))
    assert [(row.id, row.seq, row.payload_json) for row in log.scan(after_seq=0, limit=9)] == [
        ("a", 2, '{"n":2}')
    ]
    assert log.commit([Delete("a", expected_seq=2)]).seqs == (2,)


def test_a_payload_that_is_no_json_any_more_is_damage(path: Path) -> None:
    log = opened(path, [])
    log.commit([upsert("a", {"n": 1})])
    raw = sqlite3.connect(path)
    raw.execute("UPDATE rows SET payload = '{' WHERE seq = 1")
    raw.commit()
    raw.close()
    with pytest.raises(CorruptData, match="is damaged"):
        log.queries.count(NumberIn(field="n", bounds=Bounds(gt=0)))
    log.close()


@pytest.mark.parametrize(
    "damaged",
    [
        b'{"brand:"x","title":"red"}}',
        b'{"brand":"y","title":"red"}',
        b'{"brand":"x","title":"rex"}',
    ],
)
def test_rows_with_damaged_payloads_can_be_removed_and_replaced(path: Path, damaged: bytes) -> None:
    payload: dict[str, object] = {"brand": "x", "title": "red"}
    good = canonical(payload).encode()
    log = opened(path, [TITLE, BRAND])
    log.commit([upsert(row_id, payload) for row_id in "abc"])
    log.close()
    # Not by SQL, which would bring the indexes in line.
    data = path.read_bytes()
    assert data.count(good) == 3
    path.write_bytes(data.replace(good, damaged, 2))
    log = opened(path, [TITLE, BRAND])
    damaged_ids = [
        problem.text.split("'")[1]
        for problem in log.check().problems
        if problem.part is Damaged.RECORD
    ]
    assert len(damaged_ids) == 2
    log.commit([Delete(damaged_ids[0])])
    log.commit([upsert(damaged_ids[1], payload)])
    left = sorted({*"abc"} - {damaged_ids[0]})
    for condition in (None, OneOf(field="brand", values=("x",))):
        assert sorted(found_ids(log, "red", condition)) == left
        assert found_ids(log, "rex", condition) == []
    keys = log.queries.keys(OneOf(field="brand", values=("x",)), after_seq=0, limit=9)
    assert sorted(key.id for key in keys) == left
    with closing(sqlite3.connect(path)) as database:
        assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    assert not log.check().problems
    log.close()


def test_the_model_of_the_rows_is_kept_with_its_name_and_version(path: Path) -> None:
    old = opened(path, [])
    old.commit([upsert("a", {})])
    assert [(ref.name, ref.version, ref.digest) for ref in old.models()] == [("", "", "0f")]
    old.close()
    for _ in range(2):
        log = RowLog.open(path, dim=1, model_digest="1e", model_name="m", model_version="2")
        log.commit([upsert("b", {})])
        refs = sorted((ref.digest, ref.name, ref.version) for ref in log.models())
        assert refs == [("0f", "", ""), ("1e", "m", "2")]
        log.close()
