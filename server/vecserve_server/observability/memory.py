"""How much memory this process may still take (Linux): the machine's, and its control groups'.

Owns the reading of both versions of control groups. Must not know who asks.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

MEMINFO, GROUPS, MOUNT = Path("/proc/meminfo"), Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")
# What version 1 says where there is no limit is about that many bytes.
_UNLIMITED_BYTES = 1 << 60


def available_memory_bytes(
    *, meminfo: Path = MEMINFO, groups: Path = GROUPS, mount: Path = MOUNT
) -> int | None:
    """Return the least of the kernel's estimate and what the control groups leave.

    A group's own limit and those of the groups around it apply. None where nothing is known.
    """
    rests = [_rest(folder) for folder in _folders(groups, mount)]
    known = [size for size in (_free_bytes(meminfo), *rests) if size is not None]
    return min(known, default=None)


def _free_bytes(meminfo: Path) -> int | None:
    try:
        lines = meminfo.read_text("utf-8").splitlines()
    except OSError:
        return None
    found = [line.split()[1] for line in lines if line.startswith("MemAvailable:")]
    return int(found[0]) * 1024 if found else None


def _folders(groups: Path, mount: Path) -> Iterator[Path]:
    """Yield the folders of the groups that limit this process, the innermost first.

    Inside a container the path that the kernel tells may not exist below the mount: then the mount
    itself is the container's group.
    """
    for root, path in _group_paths(groups, mount):
        yield from (root.joinpath(*path.parts[1:end]) for end in range(len(path.parts), 0, -1))


def _group_paths(groups: Path, mount: Path) -> Iterator[tuple[Path, Path]]:
    found = {mount: Path("/")}
    if (mount / "memory").is_dir():
        found[mount / "memory"] = Path("/")
    try:
        lines = groups.read_text("utf-8").splitlines()
    except OSError:
        lines = []
    for line in lines:
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if not controllers:
            found[mount] = Path(path)
        elif "memory" in controllers.split(","):
            found[mount / "memory"] = Path(path)
    yield from found.items()


def _rest(folder: Path) -> int | None:
    if (folder / "memory.max").exists():
        return _left(folder, "memory.max", "memory.current", cached="file", shared="shmem")
    return _left(
        folder,
        "memory.limit_in_bytes",
        "memory.usage_in_bytes",
        cached="total_cache",
        shared="total_shmem",
    )


def _left(folder: Path, limit: str, used: str, *, cached: str, shared: str) -> int | None:
    try:
        limit_text = (folder / limit).read_text("utf-8").strip()
        used_bytes = int((folder / used).read_text("utf-8"))
        lines = (folder / "memory.stat").read_text("utf-8").splitlines()
        statistics = {name: int(size) for name, size in map(str.split, lines)}
    except (OSError, ValueError):
        return None
    if not limit_text.isdecimal() or int(limit_text) >= _UNLIMITED_BYTES:
        return None
    # Cached files count as used but give way to whoever asks for memory; shared memory does not.
    cached_bytes = statistics.get(cached, 0) - statistics.get(shared, 0)
    return max(0, int(limit_text) - used_bytes + max(0, cached_bytes))
