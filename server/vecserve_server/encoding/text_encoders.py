"""Encoders: a layout of the batch over a session.

Owns the way from sequences to vectors. Must not know which engine runs, nor queues or texts.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from vecserve_server.domain.vectors import Encodings, TokenIds
from vecserve_server.encoding.batch_dependence import padded_feeds
from vecserve_server.encoding.encoder import OnRun
from vecserve_server.encoding.encoder_session import TYPE_IDS, EncoderSession
from vecserve_server.encoding.packing import pack, pad
from vecserve_server.encoding.planning import Run, RunPlanner


class PackedEncoder:
    """Implement `Encoder` over a packed-rows graph."""

    def __init__(self, *, session: EncoderSession, planner: RunPlanner, on_run: OnRun) -> None:
        self._session = session
        self._planner = planner
        self._on_run = on_run

    def run(self, sequences: Sequence[TokenIds]) -> Encodings:
        """See `Encoder`; more than the run budget is computed in several runs."""
        result = _empty(len(sequences), self._session.dim)
        lengths = [len(ids) for ids in sequences]
        for run in self._planner.packed(lengths):
            _fill(result, run, self._session.run(pack(sequences, run.rows, run.shape)))
            self._on_run(_used(run, lengths), run.shape.tokens)
        return result

    def together(self, lengths: Sequence[int]) -> Sequence[int]:
        """See `Encoder`."""
        return _run_of_first(self._planner.packed(lengths))

    def await_specialised(self, timeout_s: float) -> bool:
        """See `Encoder`."""
        return self._session.await_specialised(timeout_s)

    def close(self) -> None:
        """See `Encoder`."""
        self._session.close()


class PaddedEncoder:
    """Implement `Encoder` over a graph of one sequence per row with an attention mask."""

    def __init__(self, *, session: EncoderSession, planner: RunPlanner, on_run: OnRun) -> None:
        self._session = session
        self._planner = planner
        self._on_run = on_run
        self._with_types = TYPE_IDS in session.inputs

    def run(self, sequences: Sequence[TokenIds]) -> Encodings:
        """See `Encoder`; sequences of similar length run together."""
        result = _empty(len(sequences), self._session.dim)
        lengths = [len(ids) for ids in sequences]
        for run in self._planner.padded(lengths):
            feeds = pad(sequences, [index for [index] in run.rows], run.shape)
            if not self._with_types:
                del feeds[TYPE_IDS]
            _fill(result, run, self._session.run(feeds))
            self._on_run(_used(run, lengths), run.shape.tokens)
        return result

    def together(self, lengths: Sequence[int]) -> Sequence[int]:
        """See `Encoder`."""
        return _run_of_first(self._planner.padded(lengths))

    def await_specialised(self, timeout_s: float) -> bool:
        """See `Encoder`."""
        return self._session.await_specialised(timeout_s)

    def close(self) -> None:
        """See `Encoder`."""
        self._session.close()


class AloneEncoder:
    """Implement `Encoder` over a padded graph whose texts influence each other: one in each run.

    A run has no padding either, which such a graph may let influence a vector as well.
    """

    def __init__(self, *, session: EncoderSession, on_run: OnRun) -> None:
        self._session = session
        self._on_run = on_run

    def run(self, sequences: Sequence[TokenIds]) -> Encodings:
        """See `Encoder`."""
        result = _empty(len(sequences), self._session.dim)
        for index, ids in enumerate(sequences):
            found = self._session.run(padded_feeds([ids], self._session.inputs))
            result.vectors[index], result.norms[index] = found.vectors[0], found.norms[0]
            self._on_run(len(ids), len(ids))
        return result

    def together(self, lengths: Sequence[int]) -> Sequence[int]:  # noqa: ARG002 - the interface's
        """See `Encoder`; no company makes a run cheaper."""
        return (0,)

    def await_specialised(self, timeout_s: float) -> bool:
        """See `Encoder`."""
        return self._session.await_specialised(timeout_s)

    def close(self) -> None:
        """See `Encoder`."""
        self._session.close()


def _run_of_first(runs: Sequence[Run]) -> Sequence[int]:
    return next(
        members for run in runs if 0 in (members := [index for row in run.rows for index in row])
    )


def _used(run: Run, lengths: Sequence[int]) -> int:
    return sum(lengths[index] for row in run.rows for index in row)


def _empty(count: int, dim: int) -> Encodings:
    return Encodings(np.empty((count, dim), np.float32), np.empty(count, np.float32))


def _fill(result: Encodings, run: Run, part: Encodings) -> None:
    """Put a run's rows where their sequences stand; what is beyond them is padding."""
    order = [index for row in run.rows for index in row]
    result.vectors[order] = part.vectors[: len(order)]
    result.norms[order] = part.norms[: len(order)]
