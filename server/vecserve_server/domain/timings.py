"""Where the time of a request went, stage by stage.

Owns the stages that both protocols report. Must not know who measures or shows them.
"""

from __future__ import annotations

from typing import NamedTuple


class Timings(NamedTuple):
    """Nanoseconds of each stage, 0 for those that a request did not have.

    The compute stages are named as Triton's statistics are. Of work that ran in several runs they
    are the longest.
    """

    queue_ns: int = 0
    """From the arrival in a model's queue to the start of the run."""
    compute_input_ns: int = 0
    """From the input to what the model takes: tokenising, decoding, joining tensors."""
    compute_infer_ns: int = 0
    compute_output_ns: int = 0
    search_ns: int = 0
    write_ns: int = 0

    def longest(self, other: Timings) -> Timings:
        """Merge the times of work that ran side by side."""
        return Timings(*map(max, self, other))
