"""From a model's files to an encoder that is ready.

Owns the order: choose the engine, measure its costs, open it, warm it up. Must not know any engine,
where the files lie, or whether they are what they should be.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

import numpy as np

from vecserve_server.domain.rows import Json
from vecserve_server.domain.shapes import Shape, fixed_shapes, prepared_shapes, run_shapes
from vecserve_server.domain.vectors import TokenIds
from vecserve_server.encoding.batch_dependence import LEAST_LIKENESS, likeness
from vecserve_server.encoding.cost_model import (
    CostModel,
    fit,
    measure,
    measure_change_s,
    measured_shapes,
)
from vecserve_server.encoding.encoder import Encoder, OnRun
from vecserve_server.encoding.encoder_session import EncoderSession
from vecserve_server.encoding.engine_choice import choose_engine
from vecserve_server.encoding.measurements import Measurements, processor
from vecserve_server.encoding.packing import pack, pad
from vecserve_server.encoding.planning import Cost, RunPlanner
from vecserve_server.encoding.text_encoders import AloneEncoder, PackedEncoder, PaddedEncoder
from vecserve_server.engines.compiled_models import CompiledModels
from vecserve_server.engines.engine import Engine, Feeds, SessionSettings
from vecserve_server.engines.registry import Engines
from vecserve_server.errors import ModelError
from vecserve_server.model_files.encoder_config import AUTO, CPU, PACKED, EncoderConfig
from vecserve_server.model_files.version_files import ModelFile
from vecserve_server.observability.logging import get_logger, log_event
from vecserve_server.observability.process import usable_threads

_FIXED_BYTES = 2**30
"""Bounds the graphs of fixed shapes, taking the size of a model's file for that of a graph."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedEncoder:
    """An encoder, and what was chosen and measured when it was loaded."""

    encoder: Encoder
    engine: str
    digest: str
    cost: CostModel
    run_alone: bool
    """Whether each text runs alone, because others would change its vector."""


def ignored(used_tokens: int, computed_tokens: int) -> None:
    """Ignore a run: the `OnRun` of encoders that nobody measures."""


class EncoderLoader:
    """Load encoders on this machine."""

    def __init__(self, *, engines: Engines, cache_folder: Path | None) -> None:
        """Choose among `engines`; keep measurements and compiled models in the folder, if any."""
        self._engines = engines
        self._cache_folder = cache_folder
        self._kept = Measurements(cache_folder)

    def load(
        self,
        files: Mapping[str, ModelFile],
        config: EncoderConfig,
        *,
        threads: int,
        trial: Sequence[TokenIds],
        on_run: OnRun = ignored,
    ) -> LoadedEncoder:
        """Open the configured engine, for `threads` runs at once.

        `files` holds what each engine would run, by the engine's name. The sequences `trial` tell
        whether texts of a padded model may share a run, where its configuration does not. Raises
        `ModelError` for a file that is missing, unreadable or not of the layout.
        """
        return _Load(
            engines=self._engines,
            files=files,
            config=config,
            threads=threads,
            kept=self._kept,
            cache_folder=self._cache_folder,
            trial=trial,
            on_run=on_run,
        ).run()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Load:
    engines: Engines
    files: Mapping[str, ModelFile]
    config: EncoderConfig
    threads: int
    kept: Measurements
    cache_folder: Path | None
    trial: Sequence[TokenIds]
    on_run: OnRun

    def run(self) -> LoadedEncoder:
        engine = self.engines[self._chosen()]
        cost = self._cost(engine)
        session = self._open(engine, self.threads)
        try:
            prepared = prepared_shapes(self._shapes(), run_tokens=self.config.run_tokens)
            session.warm_up([self._sample(session, shape) for shape in prepared])
            alone = self._runs_alone(engine, session)
            fixed = self._fixed_shapes(engine)
            session.specialise(fixed)
        except BaseException:
            session.close()
            raise
        return LoadedEncoder(
            encoder=self._encoder(session, planning_cost(cost, fixed), alone=alone),
            engine=engine.name,
            digest=self.files[engine.name].digest,
            cost=cost,
            run_alone=alone,
        )

    def _chosen(self) -> str:
        wanted = self.config.engine
        if wanted != AUTO:
            if wanted not in self.files:
                raise ModelError(
                    f"{self.config.name}: was not built in precision {self.config.precision} for "
                    f"{wanted}: import it again on a machine that has it"
                )
            return wanted
        if not self.files:
            raise ModelError(f"{self.config.name}: no engine here can run it")
        digests = {name: file.digest for name, file in self.files.items()}
        return choose_engine(digests, kept=self.kept, measure_s=self._work_s)

    def _work_s(self, name: str) -> float:
        """Return how long an engine takes for one run of each measured shape."""
        cost = self._cost(self.engines[name])
        return sum(cost.predict(shape) for shape in self._measured_shapes())

    def _open(self, engine: Engine, runs: int) -> EncoderSession:
        file, threads_per_run = self.files[engine.name], self._threads_per_run()
        compiled = self._compiled(engine)
        settings = SessionSettings(
            runs=runs,
            intra_op_threads=threads_per_run,
            total_threads=runs * threads_per_run,
            device_id=None if self.config.device == CPU else 0,
            cache_folder=compiled.open(file.digest),
            is_encoder=True,
        )
        opened = engine.open(file.path, settings)
        try:
            session = EncoderSession(opened, file.path)
            compiled.seal(file.digest)
            session.check_layout(self.config.layout)
        except BaseException:
            opened.close()
            raise
        return session

    def _compiled(self, engine: Engine) -> CompiledModels:
        if self.cache_folder is None or engine.compiled_folder is None:
            return CompiledModels(None)
        return CompiledModels(self.cache_folder / engine.compiled_folder)

    def _threads_per_run(self) -> int:
        wanted, limit = self.config.intra_op_thread_count, usable_threads()
        if wanted > limit:
            log_event(
                get_logger("models"),
                logging.WARNING,
                "threads_lowered",
                model=self.config.name,
                parameter="intra_op_thread_count",
                wanted=wanted,
                limit=limit,
            )
        return min(wanted, limit)

    def _cost(self, engine: Engine) -> CostModel:
        key: dict[str, Json] = {
            "kind": "cost",
            "digest": self.files[engine.name].digest,
            "engine": engine.name,
            "runtime": engine.version(),
            "processor": processor(),
            "threads": [self.threads, self.config.intra_op_thread_count],
            "run_tokens": self.config.run_tokens,
        }
        found = _read_cost(self.kept.get(key))
        if found is None:
            found = self._measured(engine)
            self.kept.put(key, asdict(found))
        return found

    def _runs_alone(self, engine: Engine, session: EncoderSession) -> bool:
        """Tell whether texts must not share runs: by the configuration, else by a trial."""
        if self.config.layout == PACKED:
            return False
        if self.config.run_alone is not None:
            return self.config.run_alone
        key: dict[str, Json] = {
            "kind": "likeness",
            "digest": self.files[engine.name].digest,
            "engine": engine.name,
            "runtime": engine.version(),
            "trial": [ids.tolist() for ids in self.trial],
        }
        found = (self.kept.get(key) or {}).get("likeness")
        if not isinstance(found, float):
            found = likeness(session.run, session.inputs, self.trial) if self.trial else 0.0
            self.kept.put(key, {"likeness": found})
        if found >= LEAST_LIKENESS:
            return False
        facts = {"model": self.config.name, "likeness": round(found, 6)}
        log_event(get_logger("encoding"), logging.WARNING, "texts_run_alone", **facts)
        return True

    def _measured(self, engine: Engine) -> CostModel:
        """Measure one run at a time: several streams would each have seen other shapes before."""
        session, shapes = self._open(engine, 1), self._measured_shapes()

        def run(shape: Shape) -> None:
            session.run(self._sample(session, shape))

        try:
            change_s = measure_change_s(run, shapes[:3], time.perf_counter)
            return replace(fit(measure(run, shapes, time.perf_counter)), change_s=change_s)
        finally:
            session.close()

    def _measured_shapes(self) -> list[Shape]:
        return measured_shapes(self._shapes(), self.config.run_tokens)

    def _sample(self, session: EncoderSession, shape: Shape) -> Feeds:
        return sample_batch(session, shape, self.config.max_tokens)

    def _shapes(self) -> list[Shape]:
        return run_shapes(
            run_tokens=self.config.run_tokens,
            max_tokens=self.config.max_tokens,
            shared=self.config.layout == PACKED,
        )

    def _fixed_shapes(self, engine: Engine) -> list[Shape]:
        """Return the shapes to specialise the session for: the larger the model, the fewer.

        A graph takes memory and time to compile; and what it saves counts less in longer runs.
        """
        size_bytes = max(1, self.files[engine.name].size_bytes)
        most = min(self.config.fixed_shapes, _FIXED_BYTES // size_bytes)
        return fixed_shapes(
            run_tokens=self.config.run_tokens,
            max_tokens=self.config.max_tokens,
            shared=self.config.layout == PACKED,
        )[:most]

    def _encoder(self, session: EncoderSession, cost: Cost, *, alone: bool) -> Encoder:
        if alone:
            return AloneEncoder(session=session, on_run=self.on_run)
        planner = RunPlanner(shapes=self._shapes(), cost=cost, row_tokens=self.config.row_tokens)
        kind = PackedEncoder if self.config.layout == PACKED else PaddedEncoder
        return kind(session=session, planner=planner, on_run=self.on_run)


def planning_cost(cost: CostModel, specialised: Iterable[Shape]) -> Cost:
    """Return the cost that runs are planned by: a shape that is not specialised adds a change."""
    known = frozenset(specialised)
    return lambda shape: cost.predict(shape) + (0.0 if shape in known else cost.change_s)


def sample_batch(session: EncoderSession, shape: Shape, max_tokens: int) -> Feeds:
    """Fill a shape with sequences of up to `max_tokens`."""
    whole, rest = divmod(shape.width, max_tokens)
    lengths = [max_tokens] * whole + [rest] * (rest > 0)
    sequences: list[TokenIds] = [np.ones(length, np.int64) for length in lengths] * shape.rows
    if session.takes_packed_rows:
        numbers = list(range(len(sequences)))
        starts = range(0, len(numbers), len(lengths))
        return pack(sequences, [numbers[at : at + len(lengths)] for at in starts], shape)
    feeds = pad(sequences, range(shape.rows), shape)
    return {name: values for name, values in feeds.items() if name in session.inputs}


def _read_cost(value: Mapping[str, Json] | None) -> CostModel | None:
    if value is None:
        return None
    numbers = {field.name: value.get(field.name) for field in fields(CostModel)}
    found = {name: number for name, number in numbers.items() if isinstance(number, float)}
    if len(found) < len(numbers) or min(found.values()) < 0:
        return None
    return CostModel(**found)
