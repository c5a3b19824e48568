"""Joining the tensors of requests, and taking the results apart again."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vecserve_server.domain.timings import Timings
from vecserve_server.errors import EngineError
from vecserve_server.scheduling.run import RunStop
from vecserve_server.scheduling.tensor_run import Arrays, Part, run_together


def run(inputs: Arrays, outputs: Sequence[str], _stop: RunStop) -> list[np.ndarray]:
    results = {"double": inputs["x"] * 2, "names": inputs["s"] + "!"}
    return [results[name] for name in outputs]


def a_part(rows: int, first: int, outputs: Sequence[str]) -> Part:
    x = np.arange(first, first + rows * 2, dtype=np.float32).reshape(rows, 2)
    names = np.array([[f"{first}-{row}"] for row in range(rows)], object)
    return Part(inputs={"x": x, "s": names}, outputs=outputs, rows=rows)


OUTPUTS = st.sampled_from([("double",), ("names",), ("double", "names"), ("names", "double")])


@given(st.lists(st.tuples(st.integers(1, 4), OUTPUTS), min_size=1, max_size=5))
def test_together_every_part_gets_what_it_gets_alone(
    parts: list[tuple[int, tuple[str, ...]]],
) -> None:
    made = [a_part(rows, 100 * index, names) for index, (rows, names) in enumerate(parts)]
    ticks = count()
    result = run_together(made, run, RunStop(), lambda: next(ticks))
    assert len(result.outputs) == len(made)
    for part, outputs in zip(made, result.outputs, strict=True):
        assert list(outputs) == list(part.outputs)
        alone = run(part.inputs, part.outputs, RunStop())
        for name, expected in zip(part.outputs, alone, strict=True):
            np.testing.assert_array_equal(outputs[name], expected, strict=True)
    assert result.timings == Timings(compute_input_ns=1, compute_infer_ns=1, compute_output_ns=1)


def test_only_what_someone_wants_is_computed_and_nothing_is_copied_for_one() -> None:
    asked: list[object] = []
    part = a_part(2, 0, ("double",))

    def spy(inputs: Arrays, outputs: Sequence[str], stop: RunStop) -> list[np.ndarray]:
        asked.append((inputs["x"] is part.inputs["x"], list(outputs)))
        return run(inputs, outputs, stop)

    run_together([part], spy, RunStop(), lambda: 0)
    assert asked == [(True, ["double"])]


def test_an_output_without_the_batchs_rows_is_an_error() -> None:
    parts = [a_part(2, 0, ("y",)), a_part(1, 0, ("y",))]
    with pytest.raises(EngineError, match=r"output 'y' has the shape \[2, 2\] for a batch of 3"):
        run_together(parts, lambda inputs, *_: [inputs["x"][:2]], RunStop(), lambda: 0)


def test_without_a_batch_dimension_outputs_have_any_shape() -> None:
    part = Part(inputs={"x": np.ones((2, 3), np.float32)}, outputs=("y",), rows=0)
    result = run_together([part], lambda inputs, *_: [inputs["x"].sum()], RunStop(), lambda: 0)
    (outputs,) = result.outputs
    assert outputs["y"] == 6
