"""A new version of a model: the collection is embedded anew, under reads and writes, and back."""

from __future__ import annotations

import asyncio
import itertools
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from tests.e2e.own_repository import Repository, eventually
from tests.e2e.server_process import ServerProcess, start_server
from tests.e2e.triton_requests import MODEL
from vecserve_client import (
    AsyncClient,
    Client,
    FailedPrecondition,
    NotFound,
    Record,
    Reindex,
)
from vecserve_server.cli.program import run

Start = Callable[..., ServerProcess]
ROWS = 300
SAME = 0.9995
"""Cosine above which two vectors come from the same weights: those of the test are 0.998 apart."""
PATIENCE_S = 120.0


def text_of(number: int, edition: int) -> str:
    return f"document number {number}, edition {edition}, about {['ships', 'tea'][number % 2]}"


class Traffic:
    """Writes and reads without pause, and knows what must be there."""

    def __init__(self, target: str) -> None:
        self._target = target
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=work) for work in (self._write, self._read)]
        self.failures: list[Exception] = []
        self.expected: dict[str, str] = {f"row-{n}": text_of(n, 0) for n in range(ROWS)}
        """Text of each row, as acknowledged."""
        self.calls = 0

    def _write(self) -> None:
        with self._caught(), Client(target=self._target, deadline_s=PATIENCE_S) as client:
            for step in itertools.count(1):
                if self._stop.is_set():
                    return
                number = step * 7 % (ROWS + 50)
                row_id, text = f"row-{number}", text_of(number, step)
                if step % 5 == 0:
                    client.delete("docs", [row_id])
                    self.expected.pop(row_id, None)
                else:
                    record = Record(id=row_id, text=text, payload={"text": text})
                    result = client.upsert("docs", [record])
                    assert not result.errors, result.errors
                    self.expected[row_id] = text
                    # Acknowledged is findable, whichever generation serves.
                    (hit,) = client.search("docs", text, k=1).hits
                    assert hit.id == row_id, (hit, row_id)
                self.calls += 1

    def _read(self) -> None:
        with self._caught(), Client(target=self._target, deadline_s=PATIENCE_S) as client:
            while not self._stop.is_set():
                assert client.search("docs", "ships", k=5).hits
                client.get("docs", ["row-1"], include_vector=True)
                assert client.count("docs") > 0
                assert [c.name for c in client.list_collections()] == ["docs"]
                self.calls += 1

    @contextmanager
    def _caught(self) -> Iterator[None]:
        try:
            yield
        except Exception as failure:  # noqa: BLE001 - whatever it is, the test names it
            self.failures.append(failure)

    @contextmanager
    def running(self) -> Iterator[Traffic]:
        for thread in self._threads:
            thread.start()
        try:
            yield self
        finally:
            self._stop.set()
            for thread in self._threads:
                thread.join(PATIENCE_S)
                assert not thread.is_alive()


def fill(client: Client, *, keep_text: bool = True) -> None:
    client.create_collection("docs", keep_text=keep_text)
    texts = [text_of(number, 0) for number in range(ROWS)]
    rows = [
        Record(id=f"row-{n}", text=text, payload={"text": text}) for n, text in enumerate(texts)
    ]
    assert not client.upsert("docs", rows).errors


def check_rows(client: Client, expected: dict[str, str], version: str) -> None:
    """Every row is there once, with its last text and the vector of one version, and is found."""
    collection = client.get_collection("docs")
    assert (collection.model.version, collection.row_count) == (version, len(expected))
    rows = list(client.scan("docs", include_vector=True, page_size=1000))
    assert {row.id: (row.payload or {})["text"] for row in rows} == expected
    assert len(rows) == len(expected)
    vectors = np.stack([row.vector for row in rows if row.vector is not None])
    texts = [expected[row.id] for row in rows]
    # The fake version 2 embeds as the model that is served by default while it is there.
    assert client.embed(texts[:1]).model.version == "2"
    newest = client.embed(texts).vectors
    same = (vectors * newest).sum(axis=1) > SAME
    assert same.all() if version == "2" else not same.any()
    for result, row in zip(client.search_batch("docs", texts, k=1), rows, strict=True):
        assert result.hits[0].id == row.id


def reindexed(client: Client, version: str) -> bool:
    return client.get_collection("docs").model.version == version


@pytest.mark.slow
def test_a_new_version_and_the_way_back_under_reads_and_writes(
    start: Start, repository: Repository
) -> None:
    server = start(models_control_mode="poll", models_poll_s=0.1)
    with Client(target=server.target, deadline_s=PATIENCE_S) as client:
        fill(client)
        traffic = Traffic(server.target)
        with traffic.running():
            repository.add_other("2")
            eventually(lambda: reindexed(client, "2") or bool(traffic.failures))
            calls = traffic.calls
            eventually(lambda: traffic.calls > calls + 20 or bool(traffic.failures))
        assert traffic.failures == []
        check_rows(client, traffic.expected, "2")
        collection = client.get_collection("docs")
        found = client.admin.get_reindex(collection.reindex_id)
        assert (found.state, found.collection, found.done_rows) == (
            *("done", "docs"),
            collection.row_count,
        )
        assert found.self_hit_rate > 0.99
        assert 0.5 < found.overlap_at_10 <= 1
        assert collection.generation == 2

        again = Traffic(server.target)
        again.expected = dict(traffic.expected)
        with again.running():
            client.admin.cancel_reindex(collection.reindex_id)
            assert reindexed(client, "1")
            calls = again.calls
            eventually(lambda: again.calls > calls + 20 or bool(again.failures))
        assert again.failures == []
        check_rows(client, again.expected, "1")
        assert client.admin.get_reindex(collection.reindex_id).state == "cancelled"


@pytest.mark.slow
@pytest.mark.parametrize("rows_before_kill", [1, ROWS // 2])
def test_a_killed_server_goes_on_with_the_re_index(
    tmp_path: Path, start: Start, repository: Repository, rows_before_kill: int
) -> None:
    repository.config().write_text(repository.config().read_text() + "version_policy { all { } }\n")
    server = start_server(
        tmp_path,
        repository=repository.root,
        name="builder",
        models_control_mode="poll",
        models_poll_s=0.1,
        reindex_on_new_version="ignore",
    )
    with Client(target=server.target, deadline_s=PATIENCE_S) as client:
        try:
            fill(client)
            repository.add_other("2")
            eventually(lambda: client.embed(["x"]).model.version == "2")
            reindex_id = client.admin.start_reindex("docs")
            client.delete("docs", ["row-0"])
            eventually(lambda: client.admin.get_reindex(reindex_id).done_rows >= rows_before_kill)
        finally:
            server.kill()
    server = start(name="again", reindex_on_new_version="ignore")
    with Client(target=server.target, deadline_s=PATIENCE_S) as client:
        eventually(lambda: reindexed(client, "2"))
        check_rows(client, {f"row-{n}": text_of(n, 0) for n in range(1, ROWS)}, "2")
        assert client.admin.get_reindex(reindex_id).state == "done"
    folder = tmp_path / "data" / "collections" / "docs"
    assert sorted(path.name for path in folder.iterdir()) == ["1", "2", "MANIFEST"]


def test_rows_without_their_text_are_not_re_indexed(start: Start, repository: Repository) -> None:
    repository.add_other("2")
    server = start(models_control_mode="none", reindex_on_new_version="ignore")
    with Client(target=server.target) as client:
        fill(client, keep_text=False)
        assert not client.get_collection("docs").keeps_text
        reindex_id = client.admin.start_reindex("docs")  # the same weights: vectors are copied
        eventually(lambda: client.admin.get_reindex(reindex_id).state == "done")
        assert client.get_collection("docs").generation == 2
        client.create_collection("vectors")
        client.upsert("vectors", [Record(id="v", vector=np.ones(384, np.float32))])
        with pytest.raises(NotFound, match="reindex_id"):
            client.admin.get_reindex("nonsense")
        with pytest.raises(NotFound, match="'nobody'"):
            client.admin.start_reindex("nobody")
        with pytest.raises(NotFound, match="'no-such-model' is not loaded"):
            client.admin.start_reindex("vectors", model="no-such-model")


def test_a_model_that_cannot_embed_the_rows_is_refused(
    start: Start, repository: Repository
) -> None:
    server = start(models_control_mode="poll", models_poll_s=0.1)
    with Client(target=server.target) as client:
        fill(client, keep_text=False)
        repository.add_other("2")
        eventually(lambda: "reindex_not_started" in server.log)
        with pytest.raises(FailedPrecondition, match=r"do not keep the texts.*'row-\d+'"):
            client.admin.start_reindex("docs")
        # The old weights serve on, because the rows need them.
        assert client.get_collection("docs").model.version == "1"
        assert client.search("docs", text_of(3, 0), k=1).hits[0].id == "row-3"


def test_the_command_line_and_the_asynchronous_client_follow_a_re_index(
    start: Start, repository: Repository, capsys: pytest.CaptureFixture[str]
) -> None:
    server = start(models_control_mode="poll", models_poll_s=0.1, reindex_on_new_version="ignore")
    with Client(target=server.target, deadline_s=PATIENCE_S) as client:
        fill(client)
        repository.add_other("2")
        eventually(lambda: client.embed(["x"]).model.version == "2")
        command = ["--server", server.target, "--json"]
        assert run(["reindex", "show", "docs", *command]) == 1
        assert "never re-indexed" in capsys.readouterr().err
        assert run(["reindex", "start", "docs", *command]) == 0
        printed = json.loads(capsys.readouterr().out)
        assert (printed["state"], printed["model"]["version"]) == ("done", "2")
        reindex_id = client.get_collection("docs").reindex_id

        async def ask() -> Reindex:
            async with AsyncClient(target=server.target) as other:
                return await other.admin.get_reindex(reindex_id)

        assert asyncio.run(ask()).model.name == MODEL
        assert run(["reindex", "cancel", "docs", *command[:2]]) == 0
        assert "cancelled" in capsys.readouterr().out
        assert reindexed(client, "1")
        with pytest.raises(NotFound):
            client.admin.cancel_reindex("nonsense")


def test_a_changed_precision_is_followed(start: Start, repository: Repository) -> None:
    server = start(models_control_mode="poll", models_poll_s=0.1)
    with Client(target=server.target, deadline_s=PATIENCE_S) as client:
        fill(client)
        before = client.get_collection("docs").model
        text = repository.config().read_text()
        repository.config().write_text(text.replace('"int8"', '"fp32"'))
        eventually(lambda: client.get_collection("docs").model.digest != before.digest)
        after = client.get_collection("docs")
        assert (after.model.version, after.row_count, after.generation) == ("1", ROWS, 2)
        assert client.search("docs", text_of(3, 0), k=1).hits[0].id == "row-3"
        # The weights of before are not served any more: there is no way back to their vectors.
        with pytest.raises(FailedPrecondition, match="is not served"):
            client.admin.cancel_reindex(after.reindex_id)
