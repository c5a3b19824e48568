"""A text model as the server runs it: each engine and precision, loaded by the server's own loader.

The one module here that knows how the server loads and opens models.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from vecserve_server.domain.shapes import Shape, run_shapes
from vecserve_server.encoding.cost_model import measure, measured_shapes
from vecserve_server.encoding.encoder_session import EncoderSession
from vecserve_server.encoding.loading import sample_batch
from vecserve_server.encoding.text_model import TextModel, TextModelLoader
from vecserve_server.engines.engine import SessionSettings
from vecserve_server.engines.registry import shipped_engines

Sequences: TypeAlias = Sequence[NDArray[np.int64]]
Vectors: TypeAlias = NDArray[np.float32]

MODEL: Final = "all-MiniLM-L6-v2"
WORKERS: Final = 2
QUEUED: Final = 32
"""Texts that wait at a time."""
_PRECISIONS: Final = ("fp32", "int8")
_PREPARE_TIMEOUT_S: Final = 180.0


@dataclass(slots=True)
class Tokens:
    """Tokens that runs had, and those that they computed, padding included."""

    used: int = 0
    computed: int = 0

    def count(self, used: int, computed: int) -> None:
        """Take in a run."""
        self.used += used
        self.computed += computed


@dataclass(frozen=True, slots=True, kw_only=True)
class CostError:
    """How far predictions of the shapes are off that were not measured for them."""

    fixed_ms: float
    token_us: float
    pair_ns: float
    change_ms: float
    unseen_shapes: int
    mean_error_percent: float
    max_error_percent: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """A model on one engine in one precision."""

    model: TextModel
    folder: Path
    """Of its version."""
    precision: str
    tokens: Tokens = field(default_factory=Tokens)
    """Of the runs so far."""

    @property
    def name(self) -> str:
        """As reports call it."""
        return f"{self.model.engine} {self.precision}"

    def ids_of(self, texts: Sequence[str], max_tokens: int | None = None) -> Sequences:
        """Return the texts' token ids."""
        limit = max_tokens or self.model.config.max_tokens
        return [text.ids for text in self.model.tokenizer.encode(texts, max_tokens=limit)]

    def together(self, lengths: Sequence[int]) -> Sequence[int]:
        """Tell which of the waiting sequences the server runs with the first one, and 0."""
        return self.model.encoder.together(lengths)

    def run(self, sequences: Sequences) -> Vectors:
        """Encode sequences in the calling thread, float32 [N, D]."""
        return self.model.encoder.run(sequences).vectors

    def embed_texts(self, texts: Sequence[str]) -> Vectors:
        """Tokenise and encode in the calling thread, float32 [N, D]."""
        return self.run(self.ids_of(texts))

    def embed(self, sequences: Sequences) -> Vectors:
        """Return the vectors of a queue at a time, computed by two threads."""
        with ThreadPoolExecutor(WORKERS) as pool:
            return np.concatenate(list(pool.map(self.run, queues(sequences))))

    def embed_alone(self, sequences: Sequences) -> Vectors:
        """Return the vectors of texts that run alone."""
        return np.concatenate([self.run([ids]) for ids in sequences])

    def waste_percent(self, sequences: Sequences) -> float:
        """Return the share of computed tokens that are padding, a queue at a time."""
        self.tokens.used = self.tokens.computed = 0
        for queue in queues(sequences):
            self.run(queue)
        return round(100 * (1 - self.tokens.used / self.tokens.computed), 2)

    def cost_error(self) -> CostError:
        """Compare predictions with runs of the shapes that were not measured for the fit."""
        config, cost = self.model.config, self.model.cost
        shapes = run_shapes(run_tokens=config.run_tokens, max_tokens=config.max_tokens)
        known = set(measured_shapes(shapes, config.run_tokens))
        unseen = [shape for shape in shapes if shape not in known]
        errors = [abs(cost.predict(shape) / taken - 1) for shape, taken in self._timed(unseen)]
        return CostError(
            fixed_ms=round(1e3 * cost.fixed_s, 3),
            token_us=round(1e6 * cost.token_s, 2),
            pair_ns=round(1e9 * cost.pair_s, 1),
            change_ms=round(1e3 * cost.change_s, 3),
            unseen_shapes=len(unseen),
            mean_error_percent=round(100 * statistics.mean(errors), 1),
            max_error_percent=round(100 * max(errors), 1),
        )

    def _timed(self, shapes: Sequence[Shape]) -> list[tuple[Shape, float]]:
        """Return the seconds of each shape, one run at a time."""
        session = _open_session(self.folder, self.model.engine, self.precision)

        def run(shape: Shape) -> None:
            session.run(sample_batch(session, shape, self.model.config.max_tokens))

        try:
            return measure(run, shapes, time.perf_counter)
        finally:
            session.close()


def open_subjects(repository: str | Path) -> dict[str, Subject]:
    """Open every engine and precision that can be had, by name."""
    found = (
        open_subject(repository, engine=engine, precision=precision)
        for engine in engines()
        for precision in _PRECISIONS
    )
    return {subject.name: subject for subject in found}


def open_subject(
    repository: str | Path,
    *,
    engine: str | None = None,
    precision: str | None = None,
    runs_at_once: int = WORKERS,
) -> Subject:
    """Open a model, the configured engine and precision where None, as fast as it gets.

    Raises ModelError, TimeoutError.
    """
    tokens, root = Tokens(), Path(repository)
    models = TextModelLoader(root, engines=shipped_engines(), default_instances=runs_at_once)
    model = models.load(MODEL, engine=engine, precision=precision, on_run=tokens.count)
    if not model.encoder.await_specialised(_PREPARE_TIMEOUT_S):
        raise TimeoutError(f"no graphs of fixed shapes after {_PREPARE_TIMEOUT_S:g} s")
    return Subject(
        model=model,
        folder=(root / MODEL / model.ref.version).resolve(),
        precision=model.config.precision,
        tokens=tokens,
    )


@contextmanager
def uncached(repository: str | Path) -> Iterator[Path]:
    """Yield a repository of the same model, of which nothing was measured or compiled before."""
    with tempfile.TemporaryDirectory() as name:
        (Path(name) / MODEL).symlink_to((Path(repository) / MODEL).resolve())
        yield Path(name)


def engines() -> list[str]:
    """Name the engines that run here."""
    return [engine.name for engine in shipped_engines().engines if engine.is_installed()]


def queues(sequences: Sequences) -> list[Sequences]:
    """Cut sequences as they arrive into what waits at a time."""
    return [sequences[at : at + QUEUED] for at in range(0, len(sequences), QUEUED)]


def _open_session(version: Path, engine: str, precision: str) -> EncoderSession:
    runtime = shipped_engines()[engine]
    model_file = version / runtime.encoders.files[precision][0]
    settings = SessionSettings(total_threads=1, is_encoder=True)
    return EncoderSession(runtime.open(model_file, settings), model_file)
