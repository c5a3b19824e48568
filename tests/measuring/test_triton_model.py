"""How Triton's model shares runs among the texts of one execution."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from types import ModuleType

import pytest
from hypothesis import given
from hypothesis import strategies as st

Groups = Callable[[list[int], list[int], float], list[list[int]]]
PADDINGS = [-1.0, 0.0, 0.1, 0.25, math.inf]


@pytest.fixture(scope="module")
def groups() -> Iterator[Groups]:
    """Only Triton's own process has the module that the model gets its tensors from."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "triton_python_backend_utils", ModuleType("absent"))
        model = import_module("vecserve_server.measuring.triton.python_model")
        yield model.groups


@given(st.lists(st.integers(2, 256), max_size=40), st.sampled_from(PADDINGS))
def test_every_text_runs_once_and_none_is_padded_beyond_its_share(
    groups: Groups, lengths: list[int], padding: float
) -> None:
    order = sorted(range(len(lengths)), key=lambda row: lengths[row])
    made = groups(order, lengths, padding)
    assert sorted(row for group in made for row in group) == list(range(len(lengths)))
    for group in made:
        longest = max(lengths[row] for row in group)
        assert all(longest <= lengths[row] * (1 + max(padding, 0)) for row in group)
    if padding < 0:
        assert len(made) == len(lengths)
    if padding == math.inf:
        assert len(made) <= 1
