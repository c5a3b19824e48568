"""kill -9 in the middle of indexing: what was acknowledged is there, once; a rerun completes it."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tests.e2e.server_process import Launch, ServerProcess
from vecserve_client import Client, Record, VecserveError
from vecserve_server.cli.exits import Exit

ROWS = 3000
BATCH_ROWS = 64
TIMEOUT_S = 120.0


def record(number: int) -> Record:
    return Record(id=f"row-{number}", text=f"text number {number}", payload={"n": number})


def index_until_killed(server: ServerProcess, *, kill_after_rows: int) -> set[str]:
    """Index rows, kill the server on the way; return the ids whose batches were acknowledged."""
    acknowledged: set[str] = set()
    failures: list[VecserveError] = []
    enough, killed = threading.Event(), threading.Event()
    client = Client(target=server.target, deadline_s=TIMEOUT_S)

    def write() -> None:
        rows = (record(number) for number in range(ROWS))
        try:
            for batch in client.upsert_many("docs", rows, batch_rows=BATCH_ROWS):
                acknowledged.update(batch.ids)
                if len(acknowledged) >= kill_after_rows:
                    enough.set()
                    killed.wait(TIMEOUT_S)  # requests are under way; no more are sent
        except VecserveError as failure:
            failures.append(failure)
            enough.set()

    writer = threading.Thread(target=write)
    writer.start()
    assert enough.wait(TIMEOUT_S)
    assert not failures, "the server was alive"
    server.kill()
    killed.set()
    client.close()  # or it would wait for the server to come back
    writer.join(TIMEOUT_S)
    assert not writer.is_alive()
    return acknowledged


def all_ids(server: ServerProcess) -> list[str]:
    with Client(target=server.target) as client:
        return [row.id for row in client.scan("docs", page_size=1000)]


@pytest.mark.slow
def test_acknowledged_rows_survive_and_a_rerun_completes(tmp_path: Path, launch: Launch) -> None:
    server = launch()
    with Client(target=server.target) as client:
        client.create_collection("docs")
    acknowledged = index_until_killed(server, kill_after_rows=ROWS // 4)
    assert ROWS // 4 <= len(acknowledged) < ROWS, "the kill must hit the middle"

    server = launch(name="again")
    recovered = all_ids(server)
    assert acknowledged <= set(recovered)
    assert len(recovered) == len(set(recovered))

    corpus = tmp_path / "corpus.jsonl"
    lines = ({"id": r.id, "text": r.text, **r.payload} for r in map(record, range(ROWS)))
    corpus.write_text("".join(json.dumps(line) + "\n" for line in lines))
    command = [sys.executable, "-m", "vecserve_server.cli.main", "index", "docs", str(corpus)]
    rerun = subprocess.run(
        [*command, "--server", server.target, "--json"],
        env=server.environ,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert rerun.returncode == Exit.OK, rerun.stderr
    assert json.loads(rerun.stdout)["indexed"] == ROWS
    complete = all_ids(server)
    assert len(complete) == ROWS
    assert set(complete) == {record(number).id for number in range(ROWS)}
    with Client(target=server.target) as client:
        assert client.count("docs") == ROWS
        hit = client.search("docs", "text number 17", k=1).hits[0]
        assert (hit.id, hit.payload) == ("row-17", {"n": 17})
    assert server.stop() == 0


@pytest.mark.slow
def test_the_index_command_fails_cleanly_when_the_server_dies(
    tmp_path: Path, launch: Launch
) -> None:
    server = launch()
    corpus = tmp_path / "corpus.jsonl"
    corpus.write_text("".join(f'{{"id": "{n}", "text": "text {n}"}}\n' for n in range(20_000)))
    command = [sys.executable, "-m", "vecserve_server.cli.main", "index", "docs", str(corpus)]
    indexing = subprocess.Popen(
        [*command, "--create", "--patience", "3", "--server", server.target],
        env=server.environ,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    with Client(target=server.target) as client:
        poll = threading.Event()
        while not client.list_collections() or not client.count("docs"):
            assert indexing.poll() is None
            poll.wait(0.05)
    server.kill()
    _, complaint = indexing.communicate(timeout=TIMEOUT_S)
    assert indexing.returncode == Exit.UNREACHABLE, complaint
    assert "Traceback" not in complaint
