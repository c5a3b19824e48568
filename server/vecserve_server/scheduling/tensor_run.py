"""Running a batch of whole requests: join their tensors, compute, take the results apart.

Owns the arithmetic of rows. Synchronous and free of state: a worker thread calls it. Must not know
queues or models.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from vecserve_server.domain.timings import Timings
from vecserve_server.errors import EngineError
from vecserve_server.scheduling.run import RunStop

Arrays: TypeAlias = Mapping[str, NDArray[Any]]


RunTensors: TypeAlias = Callable[[Arrays, Sequence[str], RunStop], Sequence[NDArray[Any]]]
"""Inputs by name, the names of the outputs that are wanted, and what may end the run, to these
outputs; synchronous, safe to call from several threads."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """What one request asks of a run."""

    inputs: Arrays
    outputs: Sequence[str]
    rows: int
    """Size of the first dimension of all tensors; 0: they have no batch dimension."""

    @property
    def shape(self) -> Hashable:
        """What must be equal among the parts of a batch: inputs, and their other dimensions."""
        return tuple((name, array.shape[1:]) for name, array in self.inputs.items())


@dataclass(frozen=True, slots=True, kw_only=True)
class RunResult:
    """The outputs of each part, in the order of the parts."""

    outputs: Sequence[Arrays]
    timings: Timings
    """Of the run alone."""


def run_together(
    parts: Sequence[Part], run: RunTensors, stop: RunStop, clock_ns: Callable[[], int]
) -> RunResult:
    """Run the parts as one batch, until `stop`; parts without a batch dimension must come alone.

    All parts have the same inputs, and their shapes differ in the first dimension only. Raises
    what `run` raises, and `EngineError` where an output lacks the batch dimension.
    """
    started_ns = clock_ns()
    names = list(dict.fromkeys(name for part in parts for name in part.outputs))
    inputs = _joined([part.inputs for part in parts])
    joined_ns = clock_ns()
    results = dict(zip(names, run(inputs, names, stop), strict=True))
    computed_ns = clock_ns()
    outputs = _taken_apart(parts, results)
    return RunResult(
        outputs=outputs,
        timings=Timings(
            compute_input_ns=joined_ns - started_ns,
            compute_infer_ns=computed_ns - joined_ns,
            compute_output_ns=clock_ns() - computed_ns,
        ),
    )


def _joined(inputs: Sequence[Arrays]) -> Arrays:
    if len(inputs) == 1:
        return inputs[0]
    return {name: np.concatenate([arrays[name] for arrays in inputs]) for name in inputs[0]}


def _taken_apart(parts: Sequence[Part], results: Arrays) -> list[Arrays]:
    rows = sum(part.rows for part in parts)
    for name, array in results.items():
        if rows and array.shape[:1] != (rows,):
            problem = f"has the shape {list(array.shape)} for a batch of {rows}"
            raise EngineError(f"output {name!r} {problem}")
    if len(parts) == 1:
        return [results]
    taken: list[Arrays] = []
    at = 0
    for part in parts:
        taken.append({name: results[name][at : at + part.rows] for name in part.outputs})
        at += part.rows
    return taken
