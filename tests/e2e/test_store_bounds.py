"""Many collections with few descriptors, files that are lost, filters that are too large."""

from __future__ import annotations

import shutil
import urllib.request
from pathlib import Path

import grpc
import numpy as np
import pytest

from tests.e2e.server_process import Launch, ServerProcess
from vecserve.v1 import admin_pb2, admin_pb2_grpc
from vecserve_client import Client, FailedPrecondition, InvalidArgument, Record, filters

COLLECTIONS = 60
SOFT, HARD = 100, 256
VECTOR = np.eye(1, 384, dtype=np.float32)[0]


def metric(server: ServerProcess, name: str) -> dict[str, float]:
    url = f"http://127.0.0.1:{server.metrics_port}/metrics"
    with urllib.request.urlopen(url) as reply:
        lines = reply.read().decode().splitlines()
    found = [line.rsplit(" ", 1) for line in lines if line.startswith(name)]
    return {key.removeprefix(name): float(value) for key, value in found}


def test_many_collections_are_served_with_few_descriptors(launch: Launch) -> None:
    names = [f"c{number}" for number in range(COLLECTIONS)]
    server = launch(descriptors=(SOFT, HARD))
    limits = Path(f"/proc/{server.process.pid}/limits").read_text()
    (line,) = [line for line in limits.splitlines() if line.startswith("Max open files")]
    assert line.split()[3:5] == [str(HARD), str(HARD)]
    with Client(target=server.target, deadline_s=30.0) as client:
        for number, name in enumerate(names):
            client.create_collection(name)
            client.upsert(name, [Record(id="a", vector=VECTOR, payload={"n": number})])
        for number, name in enumerate(names):
            assert client.search(name, VECTOR, k=1).hits[0].payload == {"n": number}
    assert server.stop() == 0, server.log
    server = launch(name="again", descriptors=(SOFT, HARD))
    with Client(target=server.target, deadline_s=30.0) as client:
        for name in names:
            client.upsert(name, [Record(id="b", vector=VECTOR)])
            assert client.count(name) == 2
    assert sum(metric(server, "vecserve_rows{").values()) == 2 * COLLECTIONS
    assert metric(server, "vecserve_open_stores")[""] < COLLECTIONS
    assert server.stop() == 0
    assert "Traceback" not in server.log


def test_too_few_descriptors_are_refused_at_the_start(launch: Launch) -> None:
    with pytest.raises(AssertionError, match=r"exit 2:(.|\n)*may have 64 files open \(ulimit -n\)"):
        launch(descriptors=(64, 64))


def remove(folder: Path) -> None:
    """Remove a folder, though the server may write its manifest anew meanwhile."""
    while folder.exists():
        shutil.rmtree(folder, ignore_errors=True)


def test_a_removed_collection_is_down_and_the_others_are_not(
    tmp_path: Path, launch: Launch
) -> None:
    server = launch(storage_watch_s=0.05, limits_max_filter_conditions=3)
    with Client(target=server.target, deadline_s=30.0) as client:
        for name in ("lost", "unwritten", "kept"):
            client.create_collection(name)
            client.upsert(name, [Record(id="a", vector=VECTOR)])
        assert client.get_collection("lost").state == "serving"
        for name in ("lost", "unwritten"):
            remove(tmp_path / "data" / "collections" / name)
        with pytest.raises(FailedPrecondition, match="files of 'lost' are gone"):
            client.upsert("lost", [Record(id="b", vector=VECTOR)])
        with pytest.raises(FailedPrecondition, match="are gone"):
            client.delete("lost", ["a"])
        assert client.search("lost", VECTOR, k=1).hits[0].id == "a"
        while client.get_collection("unwritten").state != "down":
            pass  # the next look finds it
        assert "drop it" in client.get_collection("unwritten").state_reason
        assert metric(server, "vecserve_collection_up{") == {
            'collection="kept"}': 1.0,
            'collection="lost"}': 0.0,
            'collection="unwritten"}': 0.0,
        }
        client.upsert("kept", [Record(id="b", vector=VECTOR)])
        with grpc.insecure_channel(server.target) as channel:
            admin = admin_pb2_grpc.AdminServiceStub(channel)
            stats = admin.GetStats(admin_pb2.GetStatsRequest(), timeout=30)
        assert list(stats.down_collections) == ["lost", "unwritten"]
        few, many = ([filters.equals("a", n) for n in range(size)] for size in (2, 3))
        assert client.count("kept", where=filters.any_of(*few)) == 0
        with pytest.raises(InvalidArgument, match=r"3 are allowed .limits.max_filter_conditions"):
            client.count("kept", where=filters.any_of(*many))
        client.drop_collection("lost")
    assert server.stop() == 0, server.log
    assert "collection_down" in server.log
    assert "Traceback" not in server.log
