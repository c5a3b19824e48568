"""Which models are served, and how that changes while the server runs.

Owns the control modes: none, explicit and poll. Must not know what a version goes through, what
kinds of models there are, nor protocols. Loop only.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import (
    Callable,
    Collection,
    Coroutine,
    Iterator,
    Mapping,
    MutableMapping,
    Sequence,
)
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

from vecserve_server.domain.models import ModelEntry, ModelState
from vecserve_server.domain.names import SHIPPED_MODEL
from vecserve_server.errors import (
    FailedPrecondition,
    InvalidArgument,
    ModelError,
    ModelUnavailable,
    Overloaded,
    UnknownModel,
    VecserveError,
)
from vecserve_server.model_files.model_folders import (
    FoundModel,
    TemporaryRoot,
    check_name,
    materialise,
    parse_config,
    scan,
    unusable,
)
from vecserve_server.observability.logging import get_logger, log_event
from vecserve_server.observability.model_statistics import StatisticsTable, VersionStatistics
from vecserve_server.serving.model_lifecycle import ModelLifecycle, WantedModel
from vecserve_server.serving.model_record import ModelRecord
from vecserve_server.serving.model_versions import LoadedVersion

RETRY_AFTER_MS = 1000

ControlMode: TypeAlias = Literal["none", "explicit", "poll"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ControlPolicy:
    """How models come and go."""

    mode: ControlMode
    names: Collection[str]
    """The models to serve; empty for all of the repository, or none in mode explicit."""
    default: str
    """The model that is used where a request names none; empty for none."""
    poll_s: float
    max_changes: int = 64
    """Loads and unloads in progress or waiting for others."""
    max_models: int = 1000
    """Models that requests may bring to be known, those of the repository included."""


@dataclass(slots=True)
class _Change:
    """A load or unload that was asked for."""

    is_alone: bool = False
    """Whether whoever asked has left."""
    waits: bool = False
    """Whether it has done nothing yet that must be seen through."""

    def begin(self) -> None:
        """Take note that its turn has come."""
        self.waits = False


class ModelControl:
    """Every model by name and version; see `Models` of services/inference.py."""

    def __init__(
        self,
        *,
        root: Path,
        policy: ControlPolicy,
        lifecycle: ModelLifecycle,
        statistics: StatisticsTable,
        holding: Callable[[int], AbstractContextManager[None]] = lambda _: nullcontext(),
        refused: Callable[[str], None] = lambda _: None,
    ) -> None:
        """Serve the models under `root`.

        `holding` counts the bytes of files that requests bring for as long as they are in memory;
        `refused` is told by which bound a load was refused.
        """
        self._holding = holding
        self._refused = refused
        self._root = root
        self._policy = policy
        self._lifecycle = lifecycle
        self._statistics = statistics
        self._log = get_logger("models")
        self._changes: set[asyncio.Task[None]] = set()
        self._reported: dict[str, str] = {}

    @property
    def changes(self) -> int:
        """Loads and unloads in progress or waiting for others."""
        return len(self._changes)

    async def start(self) -> None:
        """Load what is to be served from the start; in mode poll, begin to watch the repository.

        Raises ModelError where the default model or one that is wanted by name cannot be loaded;
        others stay out of service.
        """
        found = await self._scan(self._policy.names)
        await self._report_unusable()
        required = self._required(found)
        wanted = required if self._policy.mode == "explicit" else required | set(found)
        for name in sorted(wanted):
            try:
                if name not in found:
                    raise ModelError(await self._why_missing(name))
                await self._lifecycle.apply(WantedModel(found=found[name]))
            except VecserveError:
                if name in required:
                    raise
        if self._policy.mode == "poll":
            self._lifecycle.spawn(self._watch())

    def _required(self, found: Collection[str]) -> set[str]:
        """Return the models without which there is no point in starting."""
        policy = self._policy
        if policy.names or policy.mode == "explicit":
            return set(policy.names)
        if policy.default and found and policy.default not in found:
            # A repository of another server need not have it.
            log_event(self._log, logging.WARNING, "default_model_missing", model=policy.default)
            return set()
        return {policy.default} - {""}

    async def close(self, timeout_s: float) -> None:
        """Stop watching, and close every version whether it is in use or not."""
        await self._lifecycle.close(timeout_s)

    async def index(self, ready_only: bool) -> Sequence[ModelEntry]:
        """List the versions of all models, those of the repository that are not loaded included."""
        found = {} if ready_only else await self._scan()
        reasons = {} if ready_only else await self._unusable()
        entries = []
        for name in sorted({*found, *reasons, *self._lifecycle.models}):
            record = self._lifecycle.models.get(name)
            reason = reasons.get(name, "")
            unknown = ModelEntry(name, "", ModelState.UNAVAILABLE if reason else None, reason)
            entries += record.entries() if record else [unknown]
        return [entry for entry in entries if entry.state is ModelState.READY or not ready_only]

    async def load(
        self,
        name: str,
        config_json: str | None = None,
        files: MutableMapping[str, bytes] | None = None,
    ) -> None:
        """Load or reload a model; what served goes on serving until that is done, or if it fails.

        `files` are its contents by `<version>/<path>`, in place of those of the repository; the
        mapping is emptied. A load that has begun goes on when its caller leaves, one that waits
        for others does not. Raises FailedPrecondition in another mode than explicit, Overloaded
        where too much is in progress, UnknownModel, InvalidArgument or ModelError.
        """
        self._check_change(name)
        self._check_room(name)
        change = _Change()
        await self._see_through(self._load(name, config_json, files or {}, change), change)

    async def unload(self, name: str, unload_dependents: bool) -> None:  # noqa: ARG002
        """Retire a model and wait until its requests in progress are answered, within a bound.

        No model depends on another. Where there is nothing to unload, nothing is done. Raises
        FailedPrecondition and Overloaded as `load` does.
        """
        self._check_change(name)
        await self._see_through(self._lifecycle.unload(name), _Change())

    async def statistics(self, name: str, version: str) -> Sequence[VersionStatistics]:
        """Return what the ready versions counted; an empty name asks for all models."""
        if name:
            self._check_counted(name, version)
        return [
            VersionStatistics(record.name, number, self._statistics.of(record.name, number))
            for record in (self._lifecycle.models[key] for key in sorted(self._lifecycle.models))
            for number in record.serving()
            if name in ("", record.name) and version in ("", number)
        ]

    @contextmanager
    def lease(self, name: str, version: str) -> Iterator[LoadedVersion]:
        """Yield a ready version, the latest when `version` is empty; it stays open meanwhile.

        Raises UnknownModel, InvalidArgument or ModelUnavailable.
        """
        loaded = self._record(name).find(version)
        with loaded.leases.hold():
            yield loaded

    def is_ready(self, name: str, version: str) -> bool:
        """Tell whether a version, or any when empty, takes requests."""
        try:
            self._record(name).find(version)
        except (UnknownModel, InvalidArgument, ModelUnavailable):
            return False
        return True

    def _check_counted(self, name: str, version: str) -> None:
        serving = self._record(name).serving()
        if not serving:
            raise InvalidArgument("name", f"no version of model {name!r} serves")
        if version and version not in serving:
            raise InvalidArgument("version", f"version {version} of {name!r} does not serve")

    def _record(self, name: str) -> ModelRecord:
        record = self._lifecycle.models.get(name)
        if record is None:
            raise UnknownModel(name, "is not found")
        return record

    def _check_change(self, name: str) -> None:
        if self._policy.mode != "explicit":
            raise FailedPrecondition(
                "explicit model load / unload is not allowed: models.control_mode is "
                f"{self._policy.mode!r}"
            )
        check_name(name)
        most = self._policy.max_changes
        if len(self._changes) >= most:
            self._refused("changes")
            raise Overloaded(
                f"{most} loads and unloads at once are the limit (models.max_changes)",
                retry_after_ms=RETRY_AFTER_MS,
            )

    def _check_room(self, name: str) -> None:
        known, most = self._lifecycle.models, self._policy.max_models
        if name not in known and len(known) >= most:
            self._refused("models")
            raise FailedPrecondition(
                f"failed to load {name!r}: {most} models are the limit (models.max_models)"
            )

    async def _see_through(self, work: Coroutine[Any, Any, None], change: _Change) -> None:
        """See a change through that has begun; whoever asked may go away meanwhile."""
        task = self._lifecycle.spawn(work)
        self._changes.add(task)
        task.add_done_callback(self._changes.discard)
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError:
            change.is_alone = True
            if change.waits:
                task.cancel()
            raise

    async def _load(
        self,
        name: str,
        config_json: str | None,
        files: MutableMapping[str, bytes],
        change: _Change,
    ) -> None:
        with self._holding(sum(map(len, files.values()))):
            if files and config_json is None:
                raise InvalidArgument("config", "is missing; files need one")
            if config_json is not None:
                parse_config(name, config_json)
            found = await (self._brought(name, files) if files else self._kept(name))
        temporary = TemporaryRoot(found.root) if found.root != self._root else None
        wanted = WantedModel(
            found=found, config_json=config_json, temporary=temporary, on_begin=change.begin
        )
        try:
            if temporary is not None:
                temporary.acquire()
            if not change.is_alone:
                change.waits = True
                await self._lifecycle.apply(wanted, retry=True)
        finally:
            if temporary is not None:
                await self._lifecycle.in_pool(temporary.release)

    async def _kept(self, name: str) -> FoundModel:
        found = (await self._scan((name,))).get(name)
        if found is None:
            reason = (await self._unusable()).get(name, "it is not in the model repository")
            raise UnknownModel(name, reason)
        return found

    async def _brought(self, name: str, files: MutableMapping[str, bytes]) -> FoundModel:
        """Write what a request brings to a folder of its own, and let go of it."""
        sizes = {f"file:{path}": len(content) for path, content in files.items()}
        self._lifecycle.refuse_too_large(name, sizes)
        try:
            return await self._lifecycle.in_pool(lambda: materialise(name, files))
        finally:
            files.clear()

    async def _scan(self, names: Collection[str] = ()) -> dict[str, FoundModel]:
        return await self._lifecycle.in_pool(lambda: scan(self._root, names))

    async def _unusable(self) -> dict[str, str]:
        return await self._lifecycle.in_pool(lambda: unusable(self._root))

    async def _report_unusable(self) -> None:
        """Log the folders that are no models, each once as long as it stays the same."""
        reasons = await self._unusable()
        for folder, reason in reasons.items():
            if self._reported.get(folder) != reason:
                log_event(
                    self._log, logging.WARNING, "model_folder_refused", model=folder, reason=reason
                )
        self._reported = reasons

    async def _why_missing(self, name: str) -> str:
        reason = (await self._unusable()).get(name)
        if reason is not None:
            return f"model {name!r}: {reason}"
        source = "default" if name == SHIPPED_MODEL else "SOURCE"
        return (
            f"model {name!r} is not in {self._root}: "
            f"run `vecserve models add {source} --model-repository {self._root}`"
        )

    async def _watch(self) -> None:
        """Follow the repository until the server ends."""
        before: Mapping[str, FoundModel] = {}
        while True:
            await asyncio.sleep(self._policy.poll_s)
            try:
                before = await self._follow(before)
            except Exception:  # noqa: BLE001 - the next look may go better
                self._log.exception("poll_failed")

    async def _follow(self, before: Mapping[str, FoundModel]) -> Mapping[str, FoundModel]:
        """Bring what serves in line with the repository.

        A model is touched once it looks the same as the time before: a copy in progress does not,
        nor does a folder that is gone for a moment.
        """
        found = await self._scan(self._policy.names)
        await self._report_unusable()
        for name, model in found.items():
            record = self._lifecycle.models.get(name)
            if model != before.get(name) or (record and record.found == model.versions):
                continue
            try:
                await self._lifecycle.apply(WantedModel(found=model))
            except VecserveError:
                continue  # it is logged, and stands in the index
        for name in set(self._lifecycle.models).difference(found, before):
            # Bounded by drain_s; the others are not to wait for it.
            self._lifecycle.spawn(self._lifecycle.unload(name, gone=True))
        return found
