"""From a model's files to an encoder that is ready.

Owns the order: choose the engine, open it, learn its costs, warm it up. Must not know where the
files lie or whether they are what they should be.
"""

from __future__ import annotations

import importlib.metadata
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
from vecserve_server.encoding.engine_choice import choose_engine
from vecserve_server.encoding.measurements import Measurements, processor
from vecserve_server.encoding.packing import pack, pad
from vecserve_server.encoding.planning import Cost, RunPlanner
from vecserve_server.encoding.text_encoders import AloneEncoder, PackedEncoder, PaddedEncoder
from vecserve_server.engines.compiled_models import CompiledModels
from vecserve_server.engines.engine import PACKED_INPUTS, PADDED_INPUTS, TYPE_IDS, Engine, Feeds
from vecserve_server.engines.onnx_engine import OnnxEngine
from vecserve_server.engines.openvino_engine import OpenVinoEngine
from vecserve_server.errors import ModelError
from vecserve_server.model_files.model_config import AUTO, OPENVINO, PACKED, EncoderConfig
from vecserve_server.observability.logging import get_logger, log_event
from vecserve_server.observability.process import usable_threads

_FIXED_BYTES = 2**30
"""Bounds the graphs of fixed shapes, taking the size of a model's file for that of a graph."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFile:
    """What one engine runs."""

    path: Path
    digest: str
    size_bytes: int
    """Of all its files."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedEncoder:
    """An encoder, and what it came to be."""

    encoder: Encoder
    engine: str
    digest: str
    cost: CostModel
    run_alone: bool
    """Whether each text runs alone, as others would change its vector."""


def ignored(used_tokens: int, computed_tokens: int) -> None:
    """Be told of a run for nothing."""


class EncoderLoader:
    """Load encoders on this machine."""

    def __init__(self, *, cache_folder: Path | None) -> None:
        """Keep measurements and compiled models in the folder; nowhere when None."""
        self._compiled = CompiledModels(cache_folder and cache_folder / "compiled")
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
        """Open the configured engine for `threads` runs at once; `files` go by engine.

        A padded model whose configuration does not say whether texts may share a run is tried with
        the sequences `trial`. Raises `ModelError` for a file that is missing, unreadable or not of
        the layout.
        """
        return _Load(files, config, threads, self._kept, self._compiled, trial, on_run).run()


@dataclass(frozen=True, slots=True)
class _Load:
    files: Mapping[str, ModelFile]
    config: EncoderConfig
    threads: int
    kept: Measurements
    compiled: CompiledModels
    trial: Sequence[TokenIds]
    on_run: OnRun

    def run(self) -> LoadedEncoder:
        name = self._chosen()
        cost = self._cost(name)
        engine = self._open(name, self.threads)
        try:
            prepared = prepared_shapes(self._shapes(), run_tokens=self.config.run_tokens)
            batches = [self._sample(engine, shape) for shape in prepared]
            engine.warm_up(batches)
            alone = self._runs_alone(engine)
            engine.specialise(self._fixed_shapes(name))
        except BaseException:
            engine.close()
            raise
        return LoadedEncoder(
            encoder=self._encoder(engine, cost, alone=alone),
            engine=name,
            digest=self.files[name].digest,
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
        cost = self._cost(name)
        return sum(cost.predict(shape) for shape in self._measured_shapes())

    def _open(self, name: str, threads: int) -> Engine:
        file, threads_per_run = self.files[name], self._threads_per_run()
        engine: Engine
        if name == OPENVINO:
            engine = OpenVinoEngine(
                model_file=file.path,
                threads=threads,
                threads_per_run=threads_per_run,
                cache_folder=self.compiled.open(file.digest),
            )
            self.compiled.seal(file.digest)
        else:
            engine = OnnxEngine(model_file=file.path, intra_op_threads=threads_per_run)
        try:
            self._check_inputs(engine)
        except BaseException:
            engine.close()
            raise
        return engine

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

    def _check_inputs(self, engine: Engine) -> None:
        if self.config.layout == PACKED:
            fits = engine.inputs == PACKED_INPUTS
        else:
            fits = engine.inputs - {TYPE_IDS} == PADDED_INPUTS
        if not fits:
            raise ModelError(
                f"{self.files[engine.name].path}: has the inputs "
                f"{', '.join(sorted(engine.inputs))}, which is not the layout {self.config.layout}"
            )

    def _cost(self, name: str) -> CostModel:
        key: dict[str, Json] = {
            "kind": "cost",
            "digest": self.files[name].digest,
            "engine": name,
            "runtime": importlib.metadata.version(name),
            "processor": processor(),
            "threads": [self.threads, self.config.intra_op_thread_count],
            "run_tokens": self.config.run_tokens,
        }
        found = _read_cost(self.kept.get(key))
        if found is None:
            found = self._measured(name)
            self.kept.put(key, asdict(found))
        return found

    def _runs_alone(self, engine: Engine) -> bool:
        """Tell whether texts must not share runs: by the configuration, else by a trial."""
        if self.config.layout == PACKED:
            return False
        if self.config.run_alone is not None:
            return self.config.run_alone
        key: dict[str, Json] = {
            "kind": "likeness",
            "digest": self.files[engine.name].digest,
            "engine": engine.name,
            "runtime": importlib.metadata.version(engine.name),
            "trial": [ids.tolist() for ids in self.trial],
        }
        found = (self.kept.get(key) or {}).get("likeness")
        if not isinstance(found, float):
            found = likeness(engine.run, engine.inputs, self.trial) if self.trial else 0.0
            self.kept.put(key, {"likeness": found})
        if found >= LEAST_LIKENESS:
            return False
        facts = {"model": self.config.name, "likeness": round(found, 6)}
        log_event(get_logger("encoding"), logging.WARNING, "texts_run_alone", **facts)
        return True

    def _measured(self, name: str) -> CostModel:
        """Measure one run at a time: several streams would each have seen other shapes before."""
        engine, shapes = self._open(name, 1), self._measured_shapes()

        def run(shape: Shape) -> None:
            engine.run(self._sample(engine, shape))

        try:
            change_s = measure_change_s(run, shapes[:3], time.perf_counter)
            return replace(fit(measure(run, shapes, time.perf_counter)), change_s=change_s)
        finally:
            engine.close()

    def _measured_shapes(self) -> list[Shape]:
        return measured_shapes(self._shapes(), self.config.run_tokens)

    def _sample(self, engine: Engine, shape: Shape) -> Feeds:
        return sample_batch(engine, shape, self.config.max_tokens)

    def _shapes(self) -> list[Shape]:
        return run_shapes(
            run_tokens=self.config.run_tokens,
            max_tokens=self.config.max_tokens,
            shared=self.config.layout == PACKED,
        )

    def _fixed_shapes(self, name: str) -> list[Shape]:
        """Return the shapes to specialise the engine for: the larger the model, the fewer.

        A graph takes memory and time to compile; and what it saves counts less in longer runs.
        """
        most = min(self.config.fixed_shapes, _FIXED_BYTES // max(1, self.files[name].size_bytes))
        return fixed_shapes(
            run_tokens=self.config.run_tokens,
            max_tokens=self.config.max_tokens,
            shared=self.config.layout == PACKED,
        )[:most]

    def _encoder(self, engine: Engine, cost: CostModel, *, alone: bool) -> Encoder:
        if alone:
            return AloneEncoder(engine=engine, on_run=self.on_run)
        planned = planning_cost(cost, self._fixed_shapes(engine.name))
        planner = RunPlanner(shapes=self._shapes(), cost=planned, row_tokens=self.config.row_tokens)
        kind = PackedEncoder if self.config.layout == PACKED else PaddedEncoder
        return kind(engine=engine, planner=planner, on_run=self.on_run)


def planning_cost(cost: CostModel, specialised: Iterable[Shape]) -> Cost:
    """Return what runs are planned by: a shape that is not specialised means a change."""
    known = frozenset(specialised)
    return lambda shape: cost.predict(shape) + (0.0 if shape in known else cost.change_s)


def sample_batch(engine: Engine, shape: Shape, max_tokens: int) -> Feeds:
    """Fill a shape with sequences of up to `max_tokens`."""
    whole, rest = divmod(shape.width, max_tokens)
    lengths = [max_tokens] * whole + [rest] * (rest > 0)
    sequences: list[TokenIds] = [np.ones(length, np.int64) for length in lengths] * shape.rows
    if engine.inputs == PACKED_INPUTS:
        numbers = list(range(len(sequences)))
        starts = range(0, len(numbers), len(lengths))
        return pack(sequences, [numbers[at : at + len(lengths)] for at in starts], shape)
    feeds = pad(sequences, range(shape.rows), shape)
    return {name: values for name, values in feeds.items() if name in engine.inputs}


def _read_cost(value: Mapping[str, Json] | None) -> CostModel | None:
    if value is None:
        return None
    numbers = {field.name: value.get(field.name) for field in fields(CostModel)}
    found = {name: number for name, number in numbers.items() if isinstance(number, float)}
    if len(found) < len(numbers) or min(found.values()) < 0:
        return None
    return CostModel(**found)
