"""Flip bits of a store's files, one in each run, and see what it answers.

`python -m tests.crash.damage FOLDER FLIPS SEED` prints the outcomes by kind of file as JSON. Each
look at a damaged store is a fork, so that a crash is seen.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import shutil
import sys
from collections import defaultdict
from pathlib import Path
from typing import TypeAlias

from tests.crash.model import Possible, Transaction, transactions
from tests.crash.scenarios import MORE, Journal
from tests.crash.store import (
    NAME,
    SPEC,
    Store,
    check,
    check_after_all,
    check_refusal,
    opened,
    read_state,
    set_aside,
)
from tests.crash.sweep import in_fork
from vecserve_server.domain.caller import ANONYMOUS
from vecserve_server.errors import CorruptData, FailedPrecondition, VecserveError

Counts: TypeAlias = dict[str, dict[str, int]]

WRITES = transactions(26, seed=3)
SNAPSHOT = "kept"


def main(arguments: list[str]) -> int:
    """Damage everything that there is; 0 if nothing was wrong without being told."""
    folder, flips, seed = Path(arguments[0]), int(arguments[1]), int(arguments[2])
    counts: Counts = defaultdict(lambda: defaultdict(int))
    for name, killed in (("closed", False), ("killed", True)):
        base = folder / name
        base.mkdir()
        assert in_fork(lambda: asyncio.run(_prepare(base, killed))) == 0  # noqa: B023
        for path in sorted(base.rglob("*")):
            if path.is_file() and path.stat().st_size and path.name != "LOCK":
                _flip_each(base, path.relative_to(base), flips, seed, counts, folder)
    print(json.dumps(counts))
    return 0


def _flip_each(base: Path, name: Path, flips: int, seed: int, counts: Counts, folder: Path) -> None:
    size_bits = 8 * (base / name).stat().st_size
    chosen = random.Random(f"{seed} {kind_of(name)}")
    # The first bytes matter more than others.
    bits = [chosen.randrange(min(size_bits, 1024)) for _ in range(flips // 3)]
    bits += [chosen.randrange(size_bits) for _ in range(flips - len(bits))]
    for bit in bits:
        root, seen = folder / "damaged", Journal(folder / "seen")
        shutil.rmtree(root, ignore_errors=True)
        seen.path.unlink(missing_ok=True)
        shutil.copytree(base, root)
        _flip(root / name, bit)
        ended = in_fork(lambda: asyncio.run(_look(root, name, seen)))  # noqa: B023
        if ended:
            raise SystemExit(f"{base.name}: bit {bit} of {name}: {seen.lines()}, then {ended}")
        [outcome] = seen.lines()
        counts[kind_of(name)][outcome] += 1


def kind_of(name: Path) -> str:
    """Tell what kind of file it is."""
    if "segments" in name.parts:
        return "segments: " + name.name
    return ("snapshot: " if "snapshots" in name.parts else "") + name.name


async def _prepare(root: Path, killed: bool) -> None:
    """Two segments, a delta, an alias, a snapshot."""
    async with opened(root) as store:
        await store.collections.create(SPEC)
        await store.collections.set_alias("same", NAME)
        for number, transaction in enumerate(WRITES):
            await store.write(transaction)
            if number in (10, 18):
                await asyncio.to_thread(store.index.maintain)
            if number == 20:
                await store.upkeep.snapshot(NAME, SNAPSHOT, ANONYMOUS)
        if killed:
            os._exit(0)


async def _look(root: Path, name: Path, seen: Journal) -> None:
    cache = "segments" in name.parts
    try:
        async with opened(root) as store:
            if cache:
                assert set_aside(root), "it was not set aside"
            seen.note(await _compare(store, name))
            assert store.index.stats.segments, "it was not built anew"
    except VecserveError as error:
        if cache:
            raise
        check_refusal(root, error)
        seen.note("refused to open")
        return
    if "right" in seen.lines():
        async with opened(root) as store:
            await check(store, _state(*MORE))


async def _compare(store: Store, name: Path) -> str:
    if "snapshots" in name.parts:
        return await _restore(store)
    possible = _state(torn=name.name.endswith("-wal"))
    try:
        await check(store, possible)
    except VecserveError as error:
        if "segments" in name.parts:
            raise
        check_refusal(store.folder.path, error)
        return "told when read"
    except AssertionError:
        if not (await store.upkeep.verify(NAME, ANONYMOUS)).problems:
            raise
        return "found by verify"
    if (await store.upkeep.verify(NAME, ANONYMOUS)).problems:
        return "found by verify"
    outcome = "right" if possible.states == _state().states else "last write taken for torn"
    await check_after_all(store, possible, MORE)
    return outcome


async def _restore(store: Store) -> str:
    possible = Possible()
    for transaction in WRITES[:21]:
        possible.acknowledged(transaction)
    try:
        await store.upkeep.restore(SNAPSHOT, "again", ANONYMOUS)
    except (CorruptData, FailedPrecondition) as error:
        if SNAPSHOT not in str(error):
            raise
        assert store.folder.collection_names() == [NAME]
        return "refused to restore"
    possible.is_now(await read_state(store.collections.get("again")))
    await store.collections.drop("again")
    await check_after_all(store, _state(), MORE)
    return "right"


def _state(*more: Transaction, torn: bool = False) -> Possible:
    """What must be there; if it is `torn`, perhaps without the last write.

    No log can tell its own damaged end from one that a power cut left.
    """
    possible = Possible()
    for transaction in WRITES[:-1]:
        possible.acknowledged(transaction)
    (possible.unknown if torn else possible.acknowledged)(WRITES[-1])
    for transaction in more:
        possible.acknowledged(transaction)
    return possible


def _flip(path: Path, bit: int) -> None:
    data = bytearray(path.read_bytes())
    data[bit // 8] ^= 1 << bit % 8
    path.write_bytes(data)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
