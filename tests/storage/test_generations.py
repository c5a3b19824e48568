"""The folders of generations: the old layout comes forward, whatever kills the move."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from tests.storage.first_schema import write_first_schema
from tests.storage.killed import killed_at
from vecserve_server.checked_json import write_checked_json
from vecserve_server.domain.collections import CollectionSpec
from vecserve_server.domain.rows import NewRow
from vecserve_server.domain.vectors import ModelRef
from vecserve_server.errors import CorruptData
from vecserve_server.storage.folders.generations import (
    ROWS_FILE,
    generation_folder,
    make_generation,
    open_layout,
)
from vecserve_server.storage.folders.manifest import (
    Generation,
    Manifest,
    Reindex,
    Retired,
    read_manifest,
    write_manifest,
)
from vecserve_server.storage.rows.row_log import RowLog

DIM = 4
MODEL = ModelRef(name="m", version="1", digest="0f")
SPEC = CollectionSpec(name="docs", model=MODEL, dim=DIM, created_unix_ms=7)
MAX_STEPS = 60


def row(number: int) -> NewRow:
    vector = np.eye(DIM, dtype=np.float32)[number % DIM]
    return NewRow(id=f"r{number}", vector=vector, payload_json=f'{{"n":{number}}}')


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """A collection as format 1 left it after a kill: its last rows stand in the WAL alone."""
    living, folder = tmp_path / "living", tmp_path / "old"
    living.mkdir()
    model = {"name": "m", "version": "1", "digest": "0f"}
    content = {"name": "docs", "model": model, "dim": DIM, "created_unix_ms": 7}
    write_checked_json(living / "MANIFEST", {"version": 1, "collection": content})
    # Row r3 was deleted, r4 was replaced.
    numbers = {seq: seq - 1 for seq in range(1, 21) if seq not in (4, 5)} | {21: 4}
    rows = {seq: row(number) for seq, number in numbers.items()}
    writer = write_first_schema(living / ROWS_FILE, rows, dim=DIM, model_digest="0f")
    shutil.copytree(living, folder)
    writer.close()
    assert (folder / f"{ROWS_FILE}-wal").stat().st_size > 0
    return folder


def bring_forward(folder: str) -> None:
    """What a start does: layout, then schema."""
    manifest = open_layout(Path(folder))
    path = generation_folder(Path(folder), manifest.generation) / ROWS_FILE
    RowLog.open(path, dim=DIM, model_digest="0f").close()


def check(folder: Path) -> None:
    manifest = open_layout(folder)
    assert manifest == Manifest(spec=SPEC, generation=1)
    assert sorted(path.name for path in folder.iterdir()) == ["1", "MANIFEST"]
    log = RowLog.open(folder / "1" / ROWS_FILE, dim=DIM, model_digest="0f")
    rows = {r.seq: r.id for r in log.scan(after_seq=0, limit=100)}
    assert rows == {n + 1: f"r{n}" for n in range(20) if n not in (3, 4)} | {21: "r4"}
    assert log.last_seq() == 21
    assert log.without_source() == ["r0", "r1", "r2"]
    log.close()


def test_the_old_layout_comes_forward(old: Path) -> None:
    bring_forward(str(old))
    check(old)


def test_a_log_that_sqlite_could_not_remove_does_not_stay(old: Path) -> None:
    manifest = (old / "MANIFEST").read_bytes()
    bring_forward(str(old))
    (old / "MANIFEST").write_bytes(manifest)  # killed before it was written
    (old / (ROWS_FILE + "-wal")).touch()
    check(old)


@pytest.mark.slow
def test_a_kill_at_any_step_of_the_move_loses_nothing(old: Path, tmp_path: Path) -> None:
    for step in range(MAX_STEPS):
        copy = tmp_path / f"step-{step}"
        shutil.copytree(old, copy)
        killed = killed_at(step, __name__, "bring_forward", copy)
        check(copy)
        if not killed:
            break
    assert 5 <= step < MAX_STEPS - 1


def test_rows_in_both_places_are_damage(old: Path) -> None:
    make_generation(old, 1)
    shutil.copy(old / ROWS_FILE, old / "1" / ROWS_FILE)
    with pytest.raises(CorruptData, match=r"holds both rows\.sqlite and 1/rows\.sqlite"):
        open_layout(old)
    assert (old / ROWS_FILE).exists()


def test_only_generations_that_the_manifest_needs_stay(tmp_path: Path) -> None:
    def generation(number: int) -> Generation:
        return Generation(number=number, model=MODEL, dim=DIM)

    for number in (1, 2, 3, 4, 12):
        (make_generation(tmp_path, number) / "file").touch()
    manifest = Manifest(
        spec=SPEC,
        generation=3,
        previous=Retired(generation=generation(2), retired_unix_ms=1),
        reindex=Reindex(id="x", generation=generation(4)),
    )
    write_manifest(tmp_path, manifest)
    assert open_layout(tmp_path) == manifest == read_manifest(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["2", "3", "4", "MANIFEST"]
