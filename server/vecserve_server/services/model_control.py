"""Which models are served, and how that changes while the server runs.

Owns the control modes: none, explicit and poll. Must not know what a version goes through, what
kinds of models there are, nor protocols. Loop only.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Coroutine, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

from tritonclient.grpc import service_pb2

from vecserve_server.domain import SHIPPED_MODEL
from vecserve_server.errors import (
    FailedPrecondition,
    InvalidArgument,
    ModelError,
    ModelUnavailable,
    NotFound,
    Overloaded,
    VecserveError,
)
from vecserve_server.observability.logging import get_logger, log_event
from vecserve_server.observability.model_statistics import StatisticsTable
from vecserve_server.services.control import READY, UNAVAILABLE, ModelEntry
from vecserve_server.services.model_folders import (
    FoundModel,
    TemporaryRoot,
    check_name,
    materialise,
    parse_config,
    scan,
    unusable,
)
from vecserve_server.services.model_lifecycle import ModelLifecycle, WantedModel
from vecserve_server.services.model_record import ModelRecord
from vecserve_server.services.tensor_model import TensorModel

MAX_CHANGES = 64
"""Loads and unloads in progress or waiting for others, whether their callers stayed or not."""
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


class ModelControl:
    """Every model by name and version; the gateway's `ModelControl`."""

    def __init__(
        self,
        *,
        root: Path,
        policy: ControlPolicy,
        lifecycle: ModelLifecycle,
        statistics: StatisticsTable,
    ) -> None:
        """Serve the models under `root`."""
        self._root = root
        self._policy = policy
        self._lifecycle = lifecycle
        self._statistics = statistics
        self._log = get_logger("models")
        self._changes: set[asyncio.Task[None]] = set()
        self._reported: dict[str, str] = {}

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
            unknown = ModelEntry(name, "", UNAVAILABLE if reason else "", reason)
            entries += record.entries() if record else [unknown]
        return [entry for entry in entries if entry.state == READY or not ready_only]

    async def load(
        self, name: str, config_json: str | None = None, files: Mapping[str, bytes] | None = None
    ) -> None:
        """Load or reload a model; what served goes on serving until that is done, or if it fails.

        `files` are its contents by `<version>/<path>`, in place of those of the repository. Raises
        FailedPrecondition in another mode than explicit, Overloaded where too many changes are
        in progress, NotFound, InvalidArgument or ModelError.
        """
        self._check_change(name)
        await self._change(self._load(name, config_json, files or {}))

    async def unload(self, name: str, unload_dependents: bool) -> None:  # noqa: ARG002
        """Retire a model and wait until its requests in progress are answered, within a bound.

        No model depends on another. Raises FailedPrecondition and Overloaded as `load` does, and
        NotFound.
        """
        self._check_change(name)
        if name not in self._lifecycle.models:
            if name not in await self._scan((name,)):
                raise NotFound(f"model {name!r} is not found")
            return
        await self._change(self._lifecycle.unload(name))

    async def statistics(self, name: str, version: str) -> Sequence[service_pb2.ModelStatistics]:
        """Return what the ready versions counted; an empty name asks for all models."""
        if name:
            self._record(name).find(version)
        return [
            self._statistics.of(record.name, number).as_proto(record.name, number)
            for record in (self._lifecycle.models[key] for key in sorted(self._lifecycle.models))
            for number in record.serving()
            if name in ("", record.name) and version in ("", number)
        ]

    @contextmanager
    def lease(self, name: str, version: str) -> Iterator[TensorModel]:
        """Yield a ready version, the latest when `version` is empty; it stays open meanwhile.

        Raises NotFound, InvalidArgument or ModelUnavailable.
        """
        loaded = self._record(name).find(version)
        with loaded.leases.hold():
            yield loaded.model

    def is_ready(self, name: str, version: str) -> bool:
        """Tell whether a version, or any when empty, takes requests."""
        try:
            self._record(name).find(version)
        except (NotFound, InvalidArgument, ModelUnavailable):
            return False
        return True

    def _record(self, name: str) -> ModelRecord:
        record = self._lifecycle.models.get(name)
        if record is None:
            raise NotFound(f"Request for unknown model: {name!r} is not found")
        return record

    def _check_change(self, name: str) -> None:
        if self._policy.mode != "explicit":
            raise FailedPrecondition(
                "explicit model load / unload is not allowed: models.control_mode is "
                f"{self._policy.mode!r}"
            )
        check_name(name)
        if len(self._changes) >= MAX_CHANGES:
            raise Overloaded(
                f"{MAX_CHANGES} loads and unloads at once are the limit",
                retry_after_ms=RETRY_AFTER_MS,
            )

    async def _change(self, change: Coroutine[Any, Any, None]) -> None:
        """See a change through; whoever asked may go away meanwhile."""
        task = self._lifecycle.spawn(change)
        self._changes.add(task)
        task.add_done_callback(self._changes.discard)
        await asyncio.shield(task)

    async def _load(self, name: str, config_json: str | None, files: Mapping[str, bytes]) -> None:
        if not files:
            found = (await self._scan((name,))).get(name)
            if found is None:
                reason = (await self._unusable()).get(name, "it is not in the model repository")
                raise NotFound(f"failed to load {name!r}: {reason}")
            await self._lifecycle.apply(
                WantedModel(found=found, config_json=config_json), retry=True
            )
            return
        if config_json is None:
            raise InvalidArgument("parameters[config]", "is missing; files need one")
        parse_config(name, config_json)
        found = await self._lifecycle.in_pool(lambda: materialise(name, files))
        temporary = TemporaryRoot(found.root)
        temporary.acquire()
        try:
            wanted = WantedModel(found=found, config_json=config_json, temporary=temporary)
            await self._lifecycle.apply(wanted, retry=True)
        finally:
            await self._lifecycle.in_pool(temporary.release)

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
