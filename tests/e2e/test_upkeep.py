"""Snapshots, checks and erasure of a collection that serves."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import sqlite3
import threading
from pathlib import Path

import numpy as np
import pytest

from tests.e2e.server_process import Launch, ServerProcess
from vecserve_client import (
    AlreadyExists,
    AsyncClient,
    Client,
    InvalidArgument,
    NotFound,
    Record,
    ServerError,
    VecserveError,
)
from vecserve_server.cli.program import run

ROWS = 200
SECRET = "b1946ac92492d2347c6235b4d2611184"
PATIENCE_S = 60.0


def record(number: int) -> Record:
    return Record(id=f"row-{number}", text=f"text number {number}", payload={"n": number})


def fill(client: Client, rows: int = ROWS) -> None:
    client.create_collection("docs")
    assert not client.upsert("docs", [record(number) for number in range(rows)]).errors


def files_with(folder: Path, needles: list[bytes]) -> list[tuple[str, bytes]]:
    return [
        (str(path.relative_to(folder)), needle)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
        for content in [path.read_bytes()]
        for needle in needles
        if needle in content
    ]


def test_a_snapshot_under_writes_is_of_one_moment(tmp_path: Path, launch: Launch) -> None:
    server = launch()
    with Client(target=server.target, deadline_s=PATIENCE_S) as client:
        fill(client)
        stop, failures = threading.Event(), []

        def write() -> None:
            with Client(target=server.target) as other:
                number = ROWS
                try:
                    while not stop.is_set():  # pairs in one transaction: both or neither
                        other.upsert("docs", [record(number), record(number + 1)])
                        number += 2
                except VecserveError as failure:
                    failures.append(failure)

        writer = threading.Thread(target=write)
        writer.start()
        made = client.admin.create_snapshot("docs", "monday")
        stop.set()
        writer.join(PATIENCE_S)
        assert failures == []
        assert client.admin.restore_snapshot("monday", "copy") == made.last_seq
        copied = list(client.scan("copy", include_vector=True, page_size=1000))
        assert [row.seq for row in copied] == list(range(1, made.last_seq + 1))
        assert made.last_seq % 2 == 0
        assert ROWS <= made.last_seq <= client.get_collection("docs").last_seq
        assert client.search("copy", "text number 17", k=1).hits[0].id == "row-17"
        assert client.upsert("copy", [record(9999)]).seqs == (made.last_seq + 1,)
        assert client.admin.verify_collection("copy").problems == ()
        with pytest.raises(AlreadyExists, match="snapshot 'monday'"):
            client.admin.create_snapshot("docs", "monday")
        with pytest.raises(AlreadyExists, match="collection 'copy'"):
            client.admin.restore_snapshot("monday", "copy")
        with pytest.raises(NotFound, match="no snapshot 'sunday'"):
            client.admin.restore_snapshot("sunday", "other")
        for name in ("../out", "", "a/b"):
            with pytest.raises(InvalidArgument, match="name"):
                client.admin.create_snapshot("docs", name)
        assert client.drop_collection("docs") > 0
        assert client.admin.restore_snapshot("monday", "docs") == made.last_seq
    server.kill()
    server = launch(name="again")
    with Client(target=server.target) as client:
        assert client.count("docs") == made.last_seq


def test_a_damaged_snapshot_is_refused(tmp_path: Path, launch: Launch) -> None:
    server = launch(storage_snapshot_dir=tmp_path / "elsewhere")
    with Client(target=server.target) as client:
        fill(client)
        client.admin.create_snapshot("docs", "s")
        path = tmp_path / "elsewhere" / "s" / "rows.sqlite"
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
        with pytest.raises(ServerError, match="storage error"):
            client.admin.restore_snapshot("s", "copy")
        assert "snapshot 's': the checksum of its rows is wrong" in server.log
        assert [c.name for c in client.list_collections()] == ["docs"]
        assert [found.name for found in client.admin.list_snapshots()] == ["s"]
        (path.parent / "SNAPSHOT").write_bytes(b"damaged")
        (listed,) = client.admin.list_snapshots()
        assert listed.name == "s"
        assert "its manifest is damaged" in listed.problem
        client.admin.delete_snapshot("s")
        assert list((tmp_path / "elsewhere").iterdir()) == []


def test_verify_names_what_is_damaged(cleared: ServerProcess) -> None:
    with Client(target=cleared.target) as client:
        fill(client)
        found = client.admin.verify_collection("docs")
        assert (found.row_count, found.problems) == (ROWS, ())
        path = cleared.data / "collections" / "docs" / "1" / "rows.sqlite"
        with sqlite3.connect(path) as database:
            database.execute("UPDATE rows SET payload = '{}' WHERE id = 'row-7'")
            database.execute("UPDATE sources SET content = '{}' WHERE seq = 9")
        database.close()
        found = client.admin.verify_collection("docs")
        assert found.row_count == ROWS
        assert list(found.problems) == [
            "row seq 8, id 'row-7': the checksum is wrong",
            "row seq 9: the checksum of its text is wrong",
        ]


def test_a_repair_on_request_makes_anew_what_is_damaged_beside_the_rows(
    tmp_path: Path, launch: Launch, capsys: pytest.CaptureFixture[str]
) -> None:
    server = launch()
    verify = ["verify", "docs", "--server", server.target]
    with Client(target=server.target, deadline_s=PATIENCE_S) as client:
        client.create_collection("docs", fields={"name": "text", "n": "integer"})
        rows = [dataclasses.replace(record(n), payload={"n": n, "name": f"w{n}"}) for n in range(9)]
        assert not client.upsert("docs", rows).errors
        path = tmp_path / "data" / "collections" / "docs" / "1" / "rows.sqlite"

        def damage(statement: str) -> None:
            with sqlite3.connect(path) as database:
                database.execute(statement)
            database.close()

        damage("UPDATE rows SET payload = '{}' WHERE id = 'row-3'")
        assert run([*verify, "--repair"]) == 1
        refused = capsys.readouterr()
        assert "row seq 4, id 'row-3': the checksum is wrong" in refused.err
        assert "write or delete the damaged rows" in refused.err
        assert "repaired" not in refused.out

        client.upsert("docs", [rows[3]])
        damage("DELETE FROM words_docsize WHERE id = 7")
        assert run(verify) == 1
        assert "--repair makes anew what is damaged" in capsys.readouterr().err
        assert run([*verify, "--repair"]) == 0
        told = capsys.readouterr().out
        assert "repaired: word index" in told
        assert told.endswith("docs: 9 rows, 0 problems\n")
        assert run([*verify, "--json"]) == 0
        found = json.loads(capsys.readouterr().out)
        assert (found["row_count"], found["problems"]) == (9, [])

        client.upsert("docs", [record(9)])
    server.kill()
    with Client(target=launch(name="again").target) as client:
        assert [row.id for row in client.scan("docs")] == [
            *(f"row-{n}" for n in (0, 1, 2, 4, 5, 6, 7, 8, 3, 9))
        ]
        for n in (3, 6, 8):
            assert [hit.id for hit in client.search("docs", f"w{n}", mode="lexical").hits] == [
                f"row-{n}"
            ]


def test_after_a_compaction_no_file_holds_a_deleted_row(tmp_path: Path, launch: Launch) -> None:
    server = launch()
    data = tmp_path / "data"
    with Client(target=server.target, deadline_s=PATIENCE_S) as client:
        fill(client)
        vector = np.random.default_rng(0).standard_normal(384).astype(np.float32)
        secrets = [
            Record(id=f"id-{SECRET}", text=f"text-{SECRET}", payload={"name": f"pay-{SECRET}"}),
            Record(id="replaced", text=f"old-{SECRET}", payload={"old": f"was-{SECRET}"}),
            Record(id="ready", vector=vector),
        ]
        client.upsert("docs", secrets)
        stored = client.get("docs", ["ready", secrets[0].id], include_vector=True).rows
        codes = [np.asarray(row.vector, "<f2").tobytes() for row in stored]
        needles = [SECRET.encode(), *codes, *(code[100:164] for code in codes)]
        assert {needle for _, needle in files_with(data, needles)} == set(needles)
        # Keep a generation to go back to: it holds the rows as well.
        client.delete("docs", ["ready"])
        reindex_id = client.admin.start_reindex("docs")
        while client.admin.get_reindex(reindex_id).state != "done":
            pass
        client.delete("docs", [secrets[0].id])
        client.upsert("docs", [Record(id="replaced", text="harmless")])
        client.admin.compact_collection("docs")
        assert files_with(data, needles) == []
        assert client.count("docs") == ROWS + 1
        client.admin.create_snapshot("docs", "after")
        assert files_with(data, needles) == []
        assert client.admin.verify_collection("docs").problems == ()
        client.admin.cancel_reindex(reindex_id)  # the way back still works
        assert client.get_collection("docs").generation == 1
        assert client.count("docs") == ROWS + 1
        assert client.get("docs", ["replaced", secrets[0].id]).missing_ids == (secrets[0].id,)
        client.upsert("docs", [record(5000)])
        assert client.search("docs", "text number 5000", k=1).hits[0].id == "row-5000"
    assert server.stop() == 0
    assert files_with(data, needles) == []


def test_a_compaction_gives_space_back_and_fails_no_write(cleared: ServerProcess) -> None:
    with Client(target=cleared.target, deadline_s=PATIENCE_S) as client:
        fill(client, 2000)
        client.delete("docs", [f"row-{number}" for number in range(1000)])
        stop, failures = threading.Event(), []
        written: list[str] = []

        def write() -> None:
            with Client(target=cleared.target, deadline_s=PATIENCE_S) as other:
                try:
                    while not stop.is_set():
                        number = 3000 + len(written)
                        other.upsert("docs", [record(number)])
                        written.append(f"row-{number}")
                except VecserveError as failure:
                    failures.append(failure)

        writer = threading.Thread(target=write)
        writer.start()
        freed = [client.admin.compact_collection("docs") for _ in range(3)]
        stop.set()
        writer.join(PATIENCE_S)
        assert failures == []
        assert freed[0] > 0
        assert client.count("docs") == 1000 + len(written)
        assert client.get("docs", written[-100:]).missing_ids == ()


def test_the_command_line_and_the_asynchronous_client(
    cleared: ServerProcess, capsys: pytest.CaptureFixture[str]
) -> None:
    server = cleared
    with Client(target=server.target) as client:
        fill(client)
    for args, expected in (
        (["snapshot", "create", "docs", "s"], {"name": "s", "last_seq": ROWS}),
        (["snapshot", "restore", "s", "copy"], {"row_count": ROWS}),
        (["snapshot", "delete", "s"], {"name": "s"}),
        (["snapshot", "list"], {"snapshots": []}),
        (["verify", "copy"], {"row_count": ROWS, "problems": []}),
        (["compact", "copy"], {"name": "copy"}),
    ):
        assert run([*args, "--server", server.target, "--json"]) == 0
        assert expected.items() <= json.loads(capsys.readouterr().out).items()
    assert run(["snapshot", "create", "docs", "u", "--server", server.target]) == 0
    assert run(["snapshot", "list", "--server", server.target]) == 0
    assert "docs" in capsys.readouterr().out
    assert run(["snapshot", "delete", "u", "--server", server.target]) == 0
    assert capsys.readouterr().out == "deleted u\n"
    assert run(["verify", "copy", "--server", server.target]) == 0
    assert capsys.readouterr().out == f"copy: {ROWS} rows, 0 problems\n"

    async def use() -> int:
        async with AsyncClient(target=server.target) as client:
            await client.admin.set_alias("alias", "copy")
            made = await client.admin.create_snapshot("alias", "t")
            assert (made.name, made.collection, made.last_seq) == ("t", "copy", ROWS)
            assert await client.admin.list_snapshots() == [made]
            await client.admin.restore_snapshot("t", "third")
            await client.admin.delete_snapshot("t")
            with pytest.raises(NotFound, match="no snapshot 't'"):
                await client.admin.delete_snapshot("t")
            with pytest.raises(InvalidArgument, match="name"):
                await client.admin.delete_snapshot("../data")
            await client.admin.compact_collection("third")
            return (await client.admin.verify_collection("third")).row_count

    assert asyncio.run(use()) == ROWS


def test_a_second_server_on_the_folder_refuses(launch: Launch) -> None:
    first = launch()
    with pytest.raises(
        AssertionError, match=rf"exit 2:[\s\S]*in use by process {first.process.pid}"
    ):
        launch(name="second")
    with Client(target=first.target) as client:
        client.create_collection("docs")
        assert client.health() == "SERVING"
    assert first.stop() == 0
    second = launch(name="third")
    with Client(target=second.target) as client:
        assert client.count("docs") == 0
