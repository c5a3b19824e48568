"""Free memory: what the machine has and what control groups leave of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from vecserve_server.index.segmented_index import IndexOptions, _build_memory_bytes
from vecserve_server.observability import memory
from vecserve_server.observability.memory import available_memory_bytes

MIB = 1 << 20
NAMES = {
    1: ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_cache", "total_shmem"),
    2: ("memory.max", "memory.current", "file", "shmem"),
}


@pytest.fixture
def meminfo(tmp_path: Path) -> Path:
    path = tmp_path / "meminfo"
    path.write_text(f"MemTotal: 1 kB\nMemAvailable: {8192 * 1024} kB\n")
    return path


def group(folder: Path, version: int, *, limit: object, used: int, cached: int = 0) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    limit_name, used_name, cached_name, shared_name = NAMES[version]
    (folder / limit_name).write_text(f"{limit}\n")
    (folder / used_name).write_text(f"{used}\n")
    statistics = f"{cached_name} {cached}\n{shared_name} {cached // 4}\n"
    (folder / "memory.stat").write_text(statistics)


def available(tmp_path: Path, meminfo: Path, groups: str) -> int | None:
    (tmp_path / "groups").write_text(groups)
    return available_memory_bytes(
        meminfo=meminfo, groups=tmp_path / "groups", mount=tmp_path / "cgroup"
    )


@pytest.mark.parametrize(("version", "root", "line"), [(2, "", "0::"), (1, "memory", "4:memory:")])
def test_the_limits_of_a_group_and_of_those_around_it_count(
    tmp_path: Path, meminfo: Path, version: int, root: str, line: str
) -> None:
    mount = tmp_path / "cgroup" / root
    group(mount / "outer", version, limit=3000 * MIB, used=1000 * MIB, cached=400 * MIB)
    group(mount / "outer" / "inner", version, limit=4000 * MIB, used=100 * MIB)
    found = available(tmp_path, meminfo, f"{line}/outer/inner\n1:cpu:/elsewhere\n")
    assert found == (3000 - 1000 + 300) * MIB


@pytest.mark.parametrize(("version", "root", "line"), [(2, "", "0::"), (1, "memory", "4:memory:")])
def test_in_a_container_the_mount_is_the_group(
    tmp_path: Path, meminfo: Path, version: int, root: str, line: str
) -> None:
    group(tmp_path / "cgroup" / root, version, limit=500 * MIB, used=600 * MIB)
    assert available(tmp_path, meminfo, f"{line}/docker/0123\n") == 0


@pytest.mark.parametrize(("version", "limit"), [(2, "max"), (1, 0x7FFFFFFFFFFFF000)])
def test_without_a_limit_the_machine_decides(
    tmp_path: Path, meminfo: Path, version: int, limit: object
) -> None:
    root = tmp_path / "cgroup" / ("memory" if version == 1 else "")
    group(root, version, limit=limit, used=1)
    assert available(tmp_path, meminfo, "0::/\n4:memory:/\n") == 8192 * MIB
    missing = tmp_path / "missing"
    assert available_memory_bytes(meminfo=missing, groups=missing, mount=missing) is None


def test_a_build_minds_the_group(
    tmp_path: Path, meminfo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    group(tmp_path / "cgroup", 2, limit=1000 * MIB, used=200 * MIB)
    monkeypatch.setattr(
        "vecserve_server.index.segmented_index.available_memory_bytes",
        lambda: memory.available_memory_bytes(
            meminfo=meminfo, groups=tmp_path / "none", mount=tmp_path / "cgroup"
        ),
    )
    assert _build_memory_bytes(IndexOptions()) == 400 * MIB
    assert _build_memory_bytes(IndexOptions(build_memory_bytes=7)) == 7
