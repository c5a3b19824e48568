"""Retrieval against a plain search over all rows."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tests.storage.payloads import CONDITIONS, MISSING, PAYLOADS, canonical, matches, value_of
from vecserve_server.collections.hits import retrieval
from vecserve_server.collections.hits.retrieval import Asked, Retrieval
from vecserve_server.domain.collections import FieldSpec, FieldType, TextAnalysis
from vecserve_server.domain.conditions import Bounds, NumberIn, OneOf
from vecserve_server.domain.rows import NewRow
from vecserve_server.domain.searching import Mode, ReciprocalRank, Wanted
from vecserve_server.errors import DeadlineExceeded
from vecserve_server.index.live_rows import LiveRows
from vecserve_server.index.vectors.vector_index import Neighbours
from vecserve_server.storage.rows.operations import Committed, Delete, Operation, Upsert
from vecserve_server.storage.rows.row_log import RowLog

DIM = 8
FIELDS = (
    FieldSpec(name="title", type=FieldType.TEXT),
    FieldSpec(name="n", type=FieldType.INTEGER),
)


class Store:
    """A log and an index in step."""

    def __init__(self, folder: Path) -> None:
        self.log = RowLog.open(
            folder / "rows.sqlite",
            dim=DIM,
            model_digest="0f",
            fields=FIELDS,
            text_analysis=TextAnalysis(porter=True),
        )
        self.index = LiveRows(dim=DIM, exact_rows=100)
        self.vectors: dict[str, NDArray[np.float32]] = {}
        self.payloads: dict[str, dict[str, Any]] = {}

    def write(self, *operations: Operation) -> None:
        self.publish(self.log.commit(operations))

    def publish(self, committed: Committed) -> None:
        self.index.apply(
            added_seqs=committed.added_seqs,
            added_vectors=committed.added_vectors,
            removed_seqs=committed.removed_seqs,
        )

    def fill(self, payloads: Sequence[dict[str, Any]], seed: int = 1) -> None:
        random = np.random.default_rng(seed)
        rows = []
        for number, payload in enumerate(payloads):
            vector = random.normal(size=DIM).astype(np.float32)
            vector /= np.linalg.norm(vector)
            self.vectors[f"r{number}"] = vector.astype(np.float16).astype(np.float32)
            self.payloads[f"r{number}"] = payload
            rows.append(row(f"r{number}", vector, payload))
        self.write(*rows)

    def search(self, asked: Sequence[Asked], wanted: Wanted) -> list[list[str]]:
        answers = self.retrieval().answer(asked, wanted)
        return [[hit.id for hit in answer.hits] for answer in answers]

    def retrieval(self, index: Any = None) -> Retrieval:
        chosen: Any = index or self.index
        return Retrieval(log=self.log, index=chosen, clock_ns=time.perf_counter_ns)

    def by_cosine(self, query: NDArray[np.float32]) -> list[str]:
        scores = {row_id: float(vector @ query) for row_id, vector in self.vectors.items()}
        return sorted(scores, key=lambda row_id: -scores[row_id])


def row(row_id: str, vector: NDArray[np.float32], payload: dict[str, Any]) -> Upsert:
    return Upsert(NewRow(id=row_id, vector=vector, payload_json=canonical(payload)))


def axis(number: int) -> NDArray[np.float32]:
    made: NDArray[np.float32] = np.eye(DIM, dtype=np.float32)[number]
    return made


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path)


@given(st.lists(PAYLOADS, max_size=30), CONDITIONS, st.integers(1, 12), st.integers(0, 7))
@settings(max_examples=40, deadline=None)
def test_a_filtered_search_finds_the_best_of_all_that_match(
    tmp_path_factory: pytest.TempPathFactory, payloads: list[Any], condition: Any, k: int, at: int
) -> None:
    store = Store(tmp_path_factory.mktemp("store"))
    store.fill(payloads)
    (found,) = store.search([Asked(vector=axis(at))], Wanted(k=k, condition=condition))
    ranked = store.by_cosine(axis(at))
    assert found == [i for i in ranked if matches(condition, store.payloads[i])][:k]
    store.log.close()


@given(st.lists(PAYLOADS, min_size=1, max_size=60), st.integers(1, 5), st.booleans())
@settings(max_examples=40, deadline=None)
def test_grouping_keeps_the_best_hit_of_every_value(
    tmp_path_factory: pytest.TempPathFactory, payloads: list[Any], k: int, leave_out: bool
) -> None:
    store = Store(tmp_path_factory.mktemp("store"))
    store.fill(payloads)
    ranked = store.by_cosine(axis(0))
    unwanted = frozenset(ranked[:1] if leave_out else ())
    asked = Asked(vector=axis(0), leave_out=unwanted)
    (found,) = store.search([asked], Wanted(k=k, group_by="n.x"))
    expected, seen = [], set()
    for row_id in ranked:
        value = value_of(store.payloads[row_id], "n.x")
        is_scalar = value is not MISSING and not isinstance(value, dict | list)
        kind = "number" if type(value) in (int, float) else type(value).__name__
        if row_id in unwanted or not is_scalar or (kind, value) in seen:
            continue
        seen.add((kind, value))
        expected.append(row_id)
    assert found == expected[:k]
    store.log.close()


def test_grouping_looks_deeper_until_it_has_enough_groups(store: Store) -> None:
    store.fill([{"doc": n // 100} for n in range(1000)])
    near, far = axis(0), axis(1)
    store.write(*(row(f"near{n}", near, {"doc": "near"}) for n in range(500)))
    store.write(row("far", far, {"doc": "far"}))
    answer, other = store.retrieval().answer(
        [Asked(vector=near), Asked(vector=far)],
        Wanted(k=11, group_by="doc", explain=True),
    )
    assert answer.hits[0].id.startswith("near")
    assert len({json.loads(hit.payload_json or "")["doc"] for hit in answer.hits}) == 11
    assert answer.explanation is not None
    assert int(str(answer.explanation["depth"])) > 500
    assert other.hits[0].id == "far"


def test_grouping_gives_up_at_its_bound(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retrieval, "MAX_DEPTH", 64)
    store.write(*(row(f"a{n}", axis(0), {"doc": "a"}) for n in range(100)))
    store.write(row("b", axis(1), {"doc": "b"}))
    assert len(store.search([Asked(vector=axis(0))], Wanted(k=2, group_by="doc"))[0]) == 1


def test_queries_that_need_many_rows_take_turns(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.fill([{"doc": n % 3} for n in range(300)])
    asked = [Asked(vector=axis(number % DIM)) for number in range(20)]
    wanted = Wanted(k=5, group_by="doc", explain=True)
    expected = store.search(asked, wanted)
    read: list[int] = []
    by_seq = store.log.by_seq

    def counted(seqs: Sequence[int], **more: Any) -> Any:
        read.append(len(seqs))
        return by_seq(seqs, **more)

    monkeypatch.setattr(store.log, "by_seq", counted)
    monkeypatch.setattr(retrieval, "MAX_CANDIDATES", 350)
    monkeypatch.setattr(retrieval, "MAX_DEPTH", 300)
    assert store.search(asked, wanted) == expected
    assert max(read) <= 350
    with pytest.raises(DeadlineExceeded, match="not all queries"):
        store.retrieval().answer(asked, wanted, is_late=lambda: len(read) > 30)


def test_lexical_search_takes_a_filter_a_threshold_and_what_to_leave_out(store: Store) -> None:
    store.fill(
        [
            {"title": "red shoes", "n": 1},
            {"title": "a red shoe for running", "n": 2},
            {"title": "blue shoe", "n": 3},
            *({"title": "hat"},) * 8,
        ]
    )
    asked = Asked(text="red shoe")
    lexical = Wanted(k=9, mode=Mode.LEXICAL)
    assert store.search([asked], lexical) == [["r0", "r1", "r2"]]
    above = NumberIn(field="n", bounds=Bounds(gte=2))
    assert store.search([asked], Wanted(k=9, mode=Mode.LEXICAL, condition=above)) == [["r1", "r2"]]
    without = Asked(text="red shoe", leave_out=frozenset({"r0"}))
    assert store.search([without, Asked(text="hats")], Wanted(k=1, mode=Mode.LEXICAL)) == [
        ["r1"],
        ["r3"],
    ]
    (answer,) = store.retrieval().answer([asked], lexical)
    best = answer.hits[0].score
    assert store.search([asked], Wanted(k=9, mode=Mode.LEXICAL, min_score=best)) == [["r0"]]


def test_hybrid_search_explains_each_hit(store: Store) -> None:
    store.write(
        row("both", axis(0), {"title": "red", "n": 1}),
        row("near", axis(0), {"title": "blue", "n": 1}),
        row("word", -axis(0), {"title": "red", "n": 1}),
        row("none", axis(1), {"title": "x", "n": 1}),
        row("other", axis(0), {"title": "red", "n": 2}),
    )
    wanted = Wanted(
        k=3,
        mode=Mode.HYBRID,
        condition=OneOf(field="n", values=(1,)),
        fusion=ReciprocalRank(60),
        explain=True,
    )
    (answer,) = store.retrieval().answer([Asked(vector=axis(0), text="red!")], wanted)
    assert [hit.id for hit in answer.hits][:1] == ["both"]
    explained: Any = answer.explanation
    json.dumps(explained)
    assert explained["mode"] == "hybrid"
    assert explained["filter"]["matched_rows"] == 4
    assert (explained["dense"]["method"], explained["dense"]["allowed_rows"]) == ("scan", 4)
    assert (explained["lexical"]["terms"], explained["lexical"]["is_cut"]) == (("red",), False)
    assert explained["fusion"] == {
        "method": "reciprocal_rank",
        "rank_constant": 60,
        "dense": 1.0,
        "lexical": 1.0,
    }
    first = explained["hits"][0]
    assert (first["dense"]["rank"], first["lexical"]["rank"]) == (1, 1)
    assert first["score"] == 1 / 61 + 1 / 61
    assert [hit["id"] for hit in explained["hits"]] == [hit.id for hit in answer.hits]


class Overtaken:
    """An index that answers what was true before a row was written anew."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._is_first = True

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store.index, name)

    def search(self, *args: Any, **kwargs: Any) -> list[Neighbours]:
        old: list[Neighbours] = self._store.index.search(*args, **kwargs)
        if self._is_first:
            self._is_first = False
            self._store.write(row("a", axis(0), {"n": 1, "new": True}))
        return old


@pytest.mark.parametrize("condition", [None, OneOf(field="n", values=(1,))])
def test_a_row_that_is_replaced_meanwhile_is_found_all_the_same(
    store: Store, condition: Any
) -> None:
    store.write(row("a", axis(0), {"n": 1}), row("b", axis(1), {"n": 1}))
    overtaken = store.retrieval(Overtaken(store))
    (answer,) = overtaken.answer([Asked(vector=axis(0))], Wanted(k=2, condition=condition))
    assert [(hit.id, hit.seq) for hit in answer.hits] == [("a", 3), ("b", 2)]


def test_a_row_that_is_replaced_after_the_filter_is_found_all_the_same(store: Store) -> None:
    store.write(row("a", axis(0), {"n": 1}), row("b", axis(1), {"n": 1}))
    seqs = store.log.queries.seqs

    def then_replace(*args: Any, **kwargs: Any) -> Any:
        found = seqs(*args, **kwargs)
        store.log.queries.seqs = seqs  # type: ignore[method-assign]
        store.write(row("a", axis(0), {"n": 1}), Delete("none"))
        return found

    store.log.queries.seqs = then_replace  # type: ignore[method-assign]
    condition = OneOf(field="n", values=(1,))
    assert store.search([Asked(vector=axis(0))], Wanted(k=2, condition=condition)) == [["a", "b"]]


def test_a_row_that_is_replaced_after_the_filter_keeps_its_place(store: Store) -> None:
    """The answer is full without it."""
    store.write(row("a", axis(0), {"n": 1}), row("b", axis(1), {"n": 1}))
    seqs = store.log.queries.seqs

    def then_replace(*args: Any, **kwargs: Any) -> Any:
        found = seqs(*args, **kwargs)
        store.log.queries.seqs = seqs  # type: ignore[method-assign]
        store.write(row("a", axis(0), {"n": 1}))
        return found

    store.log.queries.seqs = then_replace  # type: ignore[method-assign]
    condition = OneOf(field="n", values=(1,))
    assert store.search([Asked(vector=axis(0))], Wanted(k=1, condition=condition)) == [["a"]]


class Behind(Overtaken):
    """An index that hears of a commit only after it was searched."""

    def __init__(self, store: Store, committed: Committed) -> None:
        super().__init__(store)
        self._committed = committed

    def search(self, *args: Any, **kwargs: Any) -> list[Neighbours]:
        found: list[Neighbours] = self._store.index.search(*args, **kwargs)
        if self._is_first:
            self._is_first = False
            self._store.publish(self._committed)
        return found


def test_a_row_that_is_committed_and_not_yet_published_keeps_its_place(store: Store) -> None:
    store.write(row("a", axis(0), {"n": 1}), row("b", axis(1), {"n": 1}))
    behind = Behind(store, store.log.commit([row("a", axis(0), {"n": 1})]))
    wanted = Wanted(k=1, condition=OneOf(field="n", values=(1,)))
    (answer,) = store.retrieval(behind).answer([Asked(vector=axis(0))], wanted)
    assert [(hit.id, hit.seq) for hit in answer.hits] == [("a", 3)]
