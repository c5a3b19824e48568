"""What a store does while faults come: prepare, act, check.

Owns the scenarios and the journal that an acting process leaves for the one that checks. A journal
is outside of the store's folder, so that no fault concerns it.
"""

from __future__ import annotations

import asyncio
import dataclasses
import os
import shutil
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from tests.crash.model import Possible, Transaction, row_of, transactions
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
from tests.storage.first_schema import write_first_schema
from vecserve_server.checked_json import write_checked_json
from vecserve_server.domain.caller import ANONYMOUS
from vecserve_server.domain.collections import CollectionSpec
from vecserve_server.errors import FailedPrecondition, NotFound, VecserveError
from vecserve_server.storage.folders.data_folder import DataFolder

MORE = transactions(4, seed=9)


class Journal:
    """A file of lines; each is written with one call, so a kill leaves whole lines."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def note(self, line: str) -> None:
        """Add a line."""
        descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(descriptor, line.encode() + b"\n")
        os.close(descriptor)

    def lines(self) -> list[str]:
        """Read all lines."""
        return self.path.read_text().splitlines() if self.path.exists() else []

    def possible(self, writes: Sequence[Transaction]) -> Possible:
        """Tell in which states the rows may be, if the lines are about these writes."""
        possible = Possible()
        begun: int | None = None
        for line in self.lines():
            word, _, number = line.partition(" ")
            if word == "begin":
                begun = int(number)
            elif word == "ok" and begun is not None:
                possible.acknowledged(writes[begun])
                begun = None
            elif word == "failed" and begun is not None:
                possible.unknown(writes[begun])
                begun = None
        if begun is not None:
            possible.unknown(writes[begun])
        return possible

    def stands(self, deed: str, undoing: str) -> bool | None:
        """Tell whether a deed must be in force; None if nobody was told."""
        lines = self.lines()
        if f"did {undoing}" in lines:
            return False
        return True if f"did {deed}" in lines and f"try {undoing}" not in lines else None

    def has_lived(self) -> bool:
        """Tell whether the run came to its end: what it was told of a bad disk it may believe."""
        return bool({"reached", "passed"} & set(self.lines()))

    def was_reached(self) -> bool:
        """Tell whether the fault came before the end of the scenario."""
        return "reached" in self.lines()

    def outcome(self) -> str:
        """Sum up a run that was not killed."""
        lines = self.lines()
        if "refused" in lines:
            return "refused to open"
        failed = any(line.startswith("failed") for line in lines)
        return "failed and went on" if failed else "went on"


class Scenario(Protocol):
    """Something that a store does."""

    def prepare(self, root: Path, journal: Journal) -> None:
        """Make the store as it is before."""
        ...

    def act(self, root: Path, journal: Journal, mend: Callable[[], None]) -> None:
        """Do it while the fault comes; then `mend` the disk, and go on."""
        ...

    def check(self, root: Path, journal: Journal) -> None:
        """Open what was left, and compare it with the journal."""
        ...


Action = Callable[["Acting"], Awaitable[None]]


@dataclass(slots=True)
class Acting:
    """A store in a scenario, whose calls are noted."""

    store: Store
    journal: Journal
    writes: Sequence[Transaction]

    async def write(self, first: int, last: int) -> None:
        """Write the transactions of these numbers, one after the other."""
        for number in range(first, last):
            self.journal.note(f"begin {number}")
            try:
                await self.store.write(self.writes[number])
            except VecserveError as error:
                self.refused(error)
            else:
                self.journal.note("ok")

    async def seal(self) -> None:
        """Do the index's maintenance; what fails is done another time."""
        await self.attempt("seal", asyncio.to_thread(self.store.index.maintain))

    async def compact(self) -> None:
        """Rewrite all segments, and the rows."""
        await self.attempt("compact", self.store.upkeep.compact(NAME, ANONYMOUS))

    async def start_reindex(self) -> str:
        """Begin to make a generation with the newest model; return the id, if it began."""
        try:
            return await self.store.reindexing.start(NAME, "m", ANONYMOUS)
        except VecserveError as error:
            self.refused(error)
            return ""

    async def take_back(self, reindex_id: str) -> None:
        """Let the generation before serve again."""
        if reindex_id:
            await self.attempt("take back", self.store.reindexing.cancel(reindex_id, ANONYMOUS))

    async def attempt(self, deed: str, work: Awaitable[object]) -> None:
        """Await something that may fail on a bad disk, but only as it should."""
        self.journal.note(f"try {deed}")
        try:
            await work
        except VecserveError as error:
            self.refused(error)
        else:
            self.journal.note(f"did {deed}")

    def refused(self, error: VecserveError) -> None:
        """Note an error; it must say what it is about."""
        self.journal.note("failed")
        if isinstance(error, NotFound | FailedPrecondition):
            return  # of what could not be made before
        check_refusal(self.store.folder.path, error)


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreScenario:
    """Open a prepared store, act on it, check it in place, close it."""

    before: Action | None
    """None: the store does not exist yet."""
    action: Action
    writes: Sequence[Transaction] = tuple(transactions(40, seed=1))
    also: Callable[[Store, Journal], Awaitable[None]] | None = None
    """What else is checked."""

    def prepare(self, root: Path, journal: Journal) -> None:
        """See `Scenario.prepare`."""
        journal.note("prepare")
        if self.before is not None:
            asyncio.run(self._run(root, journal, self.before, lambda: None, make=True))

    def act(self, root: Path, journal: Journal, mend: Callable[[], None]) -> None:
        """See `Scenario.act`."""
        try:
            asyncio.run(self._run(root, journal, self.action, mend, make=self.before is None))
        except VecserveError as error:
            mend()
            journal.note("refused")
            check_refusal(root, error)

    def check(self, root: Path, journal: Journal) -> None:
        """See `Scenario.check`."""
        asyncio.run(self._check(root, journal))

    async def _run(
        self, root: Path, journal: Journal, action: Action, mend: Callable[[], None], *, make: bool
    ) -> None:
        async with opened(root) as store:
            if make:
                await store.collections.create(SPEC)
            await action(Acting(store, journal, self.writes))
            mend()
            await check(store, journal.possible(self.writes))

    async def _check(self, root: Path, journal: Journal) -> None:
        possible = journal.possible(self.writes)
        async with opened(root) as store:
            if NAME not in store.folder.collection_names():
                assert possible.states == [{}]
                await store.collections.create(SPEC)
            assert journal.has_lived() or not set_aside(root), "a segment was lost"
            if self.also is not None:
                await self.also(store, journal)
            await check_after_all(store, possible, MORE)
        async with opened(root) as store:
            await check(store, possible)


@dataclass(frozen=True, slots=True, kw_only=True)
class Migration(StoreScenario):
    """A data folder as the first vecserve left it, killed: its rows stand in the log alone."""

    def prepare(self, root: Path, journal: Journal) -> None:
        """See `Scenario.prepare`."""
        with DataFolder.open(root) as folder:
            living, old = folder.path / "living", folder.collection_folder(NAME)
            living.mkdir()
            model = dataclasses.asdict(SPEC.model)
            content = {"name": NAME, "model": model, "dim": SPEC.dim, "created_unix_ms": 7}
            write_checked_json(living / "MANIFEST", {"version": 1, "collection": content})
            rows = {seq: row_of(f"id{seq}", number) for seq, (_, number) in _OLD.items()}
            writer = write_first_schema(
                living / "rows.sqlite", rows, dim=SPEC.dim, model_digest=SPEC.model.digest
            )
            shutil.copytree(living, old)
            writer.close()
            shutil.rmtree(living)
        journal.note("begin 0")
        journal.note("ok")


_OLD = {seq: (f"id{seq}", 1000 + seq) for seq in range(1, 31)}
_ALIAS = "same"
_OTHER = CollectionSpec(name="other", model=SPEC.model, dim=3, created_unix_ms=8)


async def _two_segments(acting: Acting) -> None:
    """Two segments with dead rows, and a delta that is not yet due."""
    await acting.write(0, 10)
    await acting.seal()
    await acting.write(10, 14)
    await acting.seal()
    await acting.write(14, 16)


async def _delta(acting: Acting) -> None:
    await acting.write(0, 8)


async def _create(acting: Acting) -> None:
    collections = acting.store.collections
    await acting.write(0, 3)
    await acting.attempt("create", collections.create(_OTHER))
    await acting.attempt("alias", collections.set_alias(_ALIAS, NAME))
    await acting.write(3, 4)
    await acting.attempt("unalias", collections.delete_alias(_ALIAS))
    await acting.attempt("drop", collections.drop(_OTHER.name))


async def _write(acting: Acting) -> None:
    await acting.write(16, 22)


async def _seal(acting: Acting) -> None:
    await acting.write(8, 10)
    await acting.seal()
    await acting.write(10, 12)
    await acting.seal()
    await acting.write(12, 16)
    await acting.seal()


async def _compact(acting: Acting) -> None:
    await acting.compact()
    await acting.write(16, 17)


async def _reindex(acting: Acting) -> None:
    """A new generation under writes, and the way back."""
    reindex_id = await acting.start_reindex()
    await acting.write(16, 19)
    await acting.store.reindexed()
    await acting.write(19, 21)
    await acting.seal()
    await acting.take_back(reindex_id)
    await acting.store.reindexed()
    await acting.write(21, 22)


async def _migrate(acting: Acting) -> None:
    await acting.write(1, 3)
    await acting.seal()


async def _snapshot(acting: Acting) -> None:
    upkeep = acting.store.upkeep
    await acting.attempt("snapshot", upkeep.snapshot(NAME, "first", ANONYMOUS))
    await acting.write(16, 18)
    await acting.attempt("restore", upkeep.restore("first", "copy", ANONYMOUS))
    await acting.attempt("drop", acting.store.collections.drop("copy"))


async def _names_are_right(store: Store, journal: Journal) -> None:
    has_alias = (_ALIAS, NAME) in store.collections.aliases()
    assert journal.stands("alias", "unalias") in (has_alias, None)
    has_other = _OTHER.name in store.folder.collection_names()
    assert journal.stands("create", "drop") in (has_other, None)


async def _went_back(store: Store, journal: Journal) -> None:
    if "did take back" in journal.lines():
        assert store.collection.spec.model == SPEC.model


async def _snapshot_is_whole(store: Store, journal: Journal) -> None:
    if not (store.folder.path / "snapshots" / "first").exists():
        assert "did snapshot" not in journal.lines()
        return
    await store.upkeep.restore("first", "again", ANONYMOUS)
    expected = Possible()
    for transaction in SCENARIOS["snapshot"].writes[:16]:
        expected.acknowledged(transaction)
    expected.is_now(await read_state(store.collections.get("again")))
    await store.collections.drop("again")


SCENARIOS: Mapping[str, StoreScenario] = {
    "create": StoreScenario(before=None, action=_create, also=_names_are_right),
    "write": StoreScenario(before=_two_segments, action=_write),
    "seal": StoreScenario(before=_delta, action=_seal),
    "compact": StoreScenario(before=_two_segments, action=_compact),
    "reindex": StoreScenario(before=_two_segments, action=_reindex, also=_went_back),
    "snapshot": StoreScenario(before=_two_segments, action=_snapshot, also=_snapshot_is_whole),
    "migrate": Migration(
        before=_two_segments,
        action=_migrate,
        writes=[list(_OLD.values()), *transactions(4, seed=2)],
    ),
}
