"""kill -9 at random moments while several clients write, delete and search; nothing may be lost.

One data folder lives through all rounds. VECSERVE_CRASH_ROUNDS and VECSERVE_CRASH_SEED choose how
many there are and which.
"""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.crash.model import Possible, State, Transaction
from tests.e2e.server_process import ServerProcess, start_server
from vecserve_client import Client, Record, RetryPolicy, VecserveError

pytestmark = pytest.mark.slow

DIM, K = 32, 10
CLIENTS, IDS = 3, 60
ROUNDS = int(os.environ.get("VECSERVE_CRASH_ROUNDS", "200"))
SEED = int(os.environ.get("VECSERVE_CRASH_SEED", "0"))
TIMEOUT_S = 900.0
"""Only a hang takes so long, or a machine that stands still for minutes."""
LONGEST_LOAD_S, LONGEST_BUILD_S = 0.8, 6.0
BUILD_ROUNDS = 4
"""Every so manieth round lasts until a segment is being built: that takes seconds."""
SMALL: dict[str, Any] = {
    "index_first_rows": 40,
    "index_delta_rows": 16,
    "index_builder_niceness": 0,
}
LEFT_BY_CRASHES = (".unfinished", ".removed")
NO_RETRY = RetryPolicy(max_attempts=1)


def vector_of(number: int) -> NDArray[np.float32]:
    """Make the vector that a row is written with."""
    vector = np.random.default_rng(number).standard_normal(DIM)
    return (vector / np.linalg.norm(vector)).astype(np.float32)


def stored(number: int) -> NDArray[np.float32]:
    """Tell the vector as it is kept."""
    return vector_of(number).astype(np.float16).astype(np.float32)


@dataclass(slots=True)
class Writer:
    """A client with ids of its own, one call at a time; it knows what was acknowledged."""

    name: str
    chosen: random.Random
    possible: Possible = field(default_factory=Possible)
    calls: int = 0
    defects: list[BaseException] = field(default_factory=list)
    _number: int = 0

    def run(self, target: str, killed: threading.Event, working: threading.Semaphore) -> None:
        """Work until the server is killed."""
        try:
            with Client(target=target, deadline_s=TIMEOUT_S, retry=NO_RETRY) as client:
                while not killed.is_set():
                    if not self._call(client, killed):
                        return
                    working.release()
        except BaseException as defect:  # noqa: BLE001  the test's thread shows it
            self.defects.append(defect)
            working.release()

    def _call(self, client: Client, killed: threading.Event) -> bool:
        change = self._next()
        try:
            _write(client, change)
        except VecserveError:
            self.possible.unknown(change)
            assert killed.is_set(), "a call failed while the server was alive"
            return False
        self.possible.acknowledged(change)
        self.calls += 1
        return self._look(client, change, killed)

    def _look(self, client: Client, change: Transaction, killed: threading.Event) -> bool:
        """What was just acknowledged is what is found."""
        row_id, number = self.chosen.choice(list(change))
        last = dict(change)[row_id]
        try:
            got = client.get("docs", [row_id]).rows
            hits = client.search("docs", vector_of(number or 0), k=K).hits if number else []
        except VecserveError:
            assert killed.is_set(), "a call failed while the server was alive"
            return False
        assert [(row.payload or {})["n"] for row in got] == ([] if last is None else [last])
        if number is not None and last == number:
            assert row_id in [hit.id for hit in hits], f"{row_id} does not find itself"
        return True

    def _next(self) -> Transaction:
        size = self.chosen.choice([1, 1, 2, 8, 16])
        ids = self.chosen.sample(range(IDS), size)
        deletes = self.chosen.random() < 0.25
        change: list[tuple[str, int | None]] = []
        for number in ids:
            self._number += 1
            unique = self._number * CLIENTS + int(self.name)
            change.append((f"{self.name}-{number}", None if deletes else unique))
        return change


def _write(client: Client, change: Transaction) -> None:
    records = [
        Record(id=row_id, vector=vector_of(number), payload={"n": number})
        for row_id, number in change
        if number is not None
    ]
    if records:
        assert not client.upsert("docs", records).errors
    else:
        client.delete("docs", [row_id for row_id, _ in change])


@contextmanager
def loaded(
    server: ServerProcess, writers: list[Writer], upkeep: Callable[[Client], None]
) -> Iterator[threading.Semaphore]:
    """Let the writers and one who looks after the store work until the block kills the server."""
    killed, working = threading.Event(), threading.Semaphore(0)
    defects: list[BaseException] = []

    def look_after() -> None:
        with Client(target=server.target, deadline_s=TIMEOUT_S, retry=NO_RETRY) as client:
            try:
                upkeep(client)
            except BaseException as error:  # noqa: BLE001  the test's thread shows it
                if not (isinstance(error, VecserveError) and killed.is_set()):
                    defects.append(error)

    threads = [
        threading.Thread(target=writer.run, args=(server.target, killed, working))
        for writer in writers
    ]
    threads.append(threading.Thread(target=look_after))
    for thread in threads:
        thread.start()
    try:
        yield working
    finally:
        killed.set()
        server.kill()
        for thread in threads:
            thread.join(TIMEOUT_S)
            assert not thread.is_alive()
    assert not defects, defects
    for writer in writers:
        assert not writer.defects, writer.defects


def check(server: ServerProcess, writers: list[Writer]) -> None:
    """Compare everything with what was acknowledged."""
    with Client(target=server.target, deadline_s=TIMEOUT_S) as client:
        rows = list(client.scan("docs", include_vector=True, page_size=500))
        found = {row.id: int((row.payload or {})["n"]) for row in rows}
        assert len(found) == len(rows), "a row is there twice"
        for writer in writers:
            own = {i: n for i, n in found.items() if i.startswith(writer.name + "-")}
            writer.possible.is_now(own)
        assert client.count("docs") == len(found)
        for row in rows:
            assert row.vector is not None
            np.testing.assert_array_equal(np.asarray(row.vector, np.float32), stored(found[row.id]))
        check_searches(client, found)


def check_searches(client: Client, found: State) -> None:
    """Exact searches are those of the model; every row finds itself."""
    if not found:
        return
    ids = sorted(found)
    vectors = np.stack([stored(found[row_id]) for row_id in ids])
    queries = np.stack([vector_of(10**9 + number) for number in range(5)])
    exact = client.search_batch("docs", list(queries), k=K, exact=True)
    norms = np.linalg.norm(vectors, axis=1)
    for query, result in zip(queries, exact, strict=True):
        best = np.sort(vectors @ query / norms)[::-1][:K]
        np.testing.assert_allclose([hit.score for hit in result.hits], best, atol=1e-3)
    selves = client.search_batch("docs", [vector_of(found[row_id]) for row_id in ids], k=K)
    for row_id, result in zip(ids, selves, strict=True):
        hits = [hit.id for hit in result.hits]
        assert row_id in hits, f"{row_id} does not find itself"
        assert set(hits) <= set(ids)


def upkeep_of(chosen: random.Random, round_: int) -> Callable[[Client], None]:
    """Choose what else happens during a round."""
    what = chosen.choice(["nothing", "compact", "compact", "snapshot", "alias", "verify"])

    def work(client: Client) -> None:
        if what == "compact":
            client.admin.compact_collection("docs")
        elif what == "snapshot":
            client.admin.create_snapshot("docs", f"round-{round_}")
        elif what == "alias":
            client.admin.set_alias("same", "docs")
        elif what == "verify":
            assert not client.admin.verify_collection("docs").problems

    return work


def wait_for_build(data: Path) -> None:
    """Wait until the builder has written something, if it comes to that."""
    deadline_s = time.monotonic() + LONGEST_BUILD_S
    while time.monotonic() < deadline_s:
        if any(data.glob("collections/docs/*/segments/.*.unfinished/seqs.i64")):
            return
        time.sleep(0.005)


@pytest.fixture
def start(tmp_path: Path, serving_repository: Path) -> Iterator[Callable[..., ServerProcess]]:
    started: list[ServerProcess] = []

    def start_one(**settings: Any) -> ServerProcess:
        started.append(start_server(tmp_path, repository=serving_repository, **SMALL, **settings))
        return started[-1]

    yield start_one
    for server in started:
        server.kill()


def test_random_kills_under_load_lose_nothing(
    tmp_path: Path, start: Callable[..., ServerProcess]
) -> None:
    print(f"VECSERVE_CRASH_SEED={SEED} VECSERVE_CRASH_ROUNDS={ROUNDS}")
    chosen = random.Random(SEED)
    writers = [Writer(str(n), random.Random(f"{SEED} {n}")) for n in range(CLIENTS)]
    server = start()
    with Client(target=server.target) as client:
        client.create_collection("docs", dim=DIM)
    for round_ in range(ROUNDS):
        with loaded(server, writers, upkeep_of(chosen, round_)) as working:
            assert working.acquire(timeout=TIMEOUT_S)
            if round_ % BUILD_ROUNDS == 0:
                wait_for_build(tmp_path / "data")
            threading.Event().wait(chosen.uniform(0, LONGEST_LOAD_S))
        # Vectors are given, so no model is needed; a start without one is quicker.
        server = start(models_control_mode="explicit")
        check(server, writers)
    with Client(target=server.target, deadline_s=TIMEOUT_S) as client:
        client.admin.compact_collection("docs")
        assert not client.admin.verify_collection("docs").problems
    check(server, writers)
    assert server.stop() == 0, server.log
    assert "Traceback" not in server.log, server.log
    left = [path for path in tmp_path.rglob("*") if path.name.endswith(LEFT_BY_CRASHES)]
    assert not left
    published = server.log.count("segment_published")
    assert published >= ROUNDS // 20
    calls = sum(writer.calls for writer in writers)
    print(f"{ROUNDS} kills, {calls} acknowledged writes, {published} segments published")
