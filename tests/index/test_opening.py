"""Damaged and missing files: the answers stay exact, and the segments come back."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.index.oracle import Small, clustered
from vecserve_server.index.segments.segment_files import FILES, RECORD
from vecserve_server.index.segments.segment_folder import MANIFEST

DIM, ROWS = 16, 60
IDS = [f"r{number}" for number in range(ROWS)]


def flip_a_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) * 2 // 3] ^= 0x10
    path.write_bytes(data)


def cut_a_byte(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def remove(path: Path) -> None:
    path.unlink()


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Small]:
    """Two segments with some dead rows and a stray, and a few rows in the delta."""
    monkeypatch.setattr(
        "vecserve_server.index.building.builder._strays",
        lambda _graph, _quantiser, vectors, _expansion: np.arange(7, 7 + len(vectors) // 20),
    )
    made = Small(folder=tmp_path, dim=DIM)
    vectors = clustered(ROWS, DIM, seed=1)
    made.upsert(IDS[:50], vectors[:50])
    made.index.maintain()
    made.upsert(IDS[50:57], vectors[50:57])
    made.index.maintain()
    made.upsert([*IDS[57:], IDS[0]], vectors[57:61].repeat(2, axis=0)[:4])
    made.delete(IDS[3:5])
    assert made.index.stats.segments == 2
    assert made.index.stats.dead_rows == 3
    yield made
    made.close()


def test_opening_reads_only_rows_that_no_segment_has(
    small: Small, monkeypatch: pytest.MonkeyPatch
) -> None:
    small.close()
    read: list[int] = []
    scan = type(small.log).scan

    def counted(*args: object, **options: object) -> object:
        page = scan(*args, **options)  # type: ignore[arg-type]
        read.extend(row.seq for row in page)
        return page

    monkeypatch.setattr(type(small.log), "scan", counted)
    small.open()
    assert len(read) == small.index.stats.delta_rows == 4
    small.check_every_row_finds_itself()


@pytest.mark.parametrize("harm", [flip_a_bit, cut_a_byte, empty, remove])
@pytest.mark.parametrize("name", [*FILES, RECORD])
@pytest.mark.parametrize("which", [0, 1])
def test_a_damaged_segment_is_set_aside_and_built_anew(
    small: Small, harm: Callable[[Path], None], name: str, which: int
) -> None:
    folder = sorted(
        small.segments.glob("segment-*"), key=lambda path: (path / "seqs.i64").stat().st_size
    )[which]
    if not (folder / name).stat().st_size:
        pytest.skip("nothing strays in the smaller segment")
    small.close()
    harm(folder / name)
    small.open()
    assert not folder.exists()
    assert folder.with_name(folder.name + ".damaged").exists()
    assert small.index.stats.segments == 1
    for query in clustered(5, DIM, seed=3):
        small.check_exactly(query, 10)
    small.check_every_row_finds_itself()
    small.index.maintain()
    assert small.index.stats.delta_rows == 0
    small.restart()
    assert small.index.stats.delta_rows == 0
    assert not small.index.verify().damaged_files
    small.check_every_row_finds_itself()
    small.index.compact()
    assert not list(small.segments.glob("*.damaged"))


@pytest.mark.parametrize("harm", [flip_a_bit, cut_a_byte, empty])
def test_a_damaged_manifest_costs_the_segments_but_no_row(
    small: Small, harm: Callable[[Path], None]
) -> None:
    small.close()
    harm(small.segments / MANIFEST)
    small.open()
    assert small.index.stats.segments == 0
    small.check_every_row_finds_itself()
    small.index.maintain()
    assert small.index.stats.segments == 1
    small.restart()
    small.check_every_row_finds_itself()


def test_segments_of_another_history_are_not_used(small: Small, tmp_path: Path) -> None:
    """Rows restored from a backup beside newer segments."""
    small.index.compact()
    small.close()
    backup = (tmp_path / "rows.sqlite").read_bytes()
    before = dict(small.expected)
    small.open()
    small.delete(IDS[10:20])
    small.index.compact()
    small.close()
    (tmp_path / "rows.sqlite").write_bytes(backup)
    small.expected = before
    small.open()
    assert len(small.index) == small.log.count()
    small.check_every_row_finds_itself()


def test_verify_names_a_file_that_changed_on_disk(small: Small) -> None:
    [path, _] = sorted(small.segments.glob("segment-*/graph.usearch"))
    flip_a_bit(path)
    verified = small.index.verify()
    assert verified.damaged_files == (f"{path.parent.name}/graph.usearch",)
    # What is searched is the verified copy in memory.
    assert not verified.missing_seqs
    small.check_every_row_finds_itself()


def test_verify_names_a_file_that_cannot_be_read(small: Small) -> None:
    [path, _] = sorted(small.segments.glob("segment-*/graph.usearch"))
    path.unlink()
    path.symlink_to(path)
    assert small.index.verify().damaged_files == (f"{path.parent.name}/graph.usearch",)


def test_a_kernel_without_huge_pages_opens_segments(
    small: Small, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mmap.MADV_HUGEPAGE", 12345)
    small.restart()
    assert small.index.stats.segments == 2
    small.check_every_row_finds_itself()


def test_what_an_interrupted_build_left_is_swept(small: Small) -> None:
    small.close()
    leftover = small.segments / ".segment-1.x.unfinished"
    leftover.mkdir()
    (leftover / "vectors.f16").write_bytes(b"x")
    unnamed = small.segments / "segment-00"
    unnamed.mkdir()
    small.open()
    assert not leftover.exists()
    assert not unnamed.exists()


def test_compacting_leaves_nothing_of_deleted_rows_on_disk(small: Small) -> None:
    vector = clustered(ROWS, DIM, seed=1)[20].astype(np.float16).tobytes()
    held = [p for p in small.segments.rglob("*.f16") if vector in p.read_bytes()]
    assert held
    small.delete([IDS[20]])
    small.index.compact()
    assert not [p for p in small.segments.rglob("*") if p.is_file() and vector in p.read_bytes()]
