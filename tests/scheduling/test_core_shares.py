"""Sharing the cores: no model waits for another, and none gets more than its part."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from itertools import combinations, count, cycle

from hypothesis import given
from hypothesis import strategies as st

from vecserve_server.scheduling.core_shares import CoreShares

LONGEST_NS = 100
RUN_TIMES = st.lists(st.integers(1, LONGEST_NS), min_size=1, max_size=4)


class Model:
    """A model that always has work."""

    def __init__(self, shares: CoreShares, run_ns: Sequence[int], instances: int) -> None:
        self.share = shares.join()
        self.run_ns = cycle(run_ns)
        self.instances = instances
        self.used_ns = 0

    @property
    def free(self) -> int:
        return self.instances - self.share.running


class Machine:
    """Models on a number of cores, by simulated time."""

    def __init__(self, cores: int) -> None:
        self.cores = cores
        self.shares = CoreShares(cores=cores)
        self.models: list[Model] = []
        self._ends: list[tuple[int, int, int, Model]] = []
        self._numbers = count()
        self._now_ns = 0

    @property
    def running(self) -> int:
        return sum(model.share.running for model in self.models)

    def add(self, run_ns: Sequence[int], instances: int) -> Model:
        model = Model(self.shares, run_ns, instances)
        self.models.append(model)
        self.dispatch(model)
        return model

    def dispatch(self, model: Model) -> None:
        """Start all that the model may start."""
        while (allowed := self.shares.allowance(model.share, model.free)) > 0:
            assert allowed <= model.free
            alone = not any(m.share.is_active for m in self.models if m is not model)
            assert alone or model.share.running == 0 or self.running < self.cores
            self.shares.started(model.share)
            run_ns = next(model.run_ns)
            heapq.heappush(self._ends, (self._now_ns + run_ns, next(self._numbers), run_ns, model))

    def step(self) -> None:
        """Let the next run end, and those go on that may."""
        self._now_ns, _, run_ns, model = heapq.heappop(self._ends)
        model.used_ns += run_ns
        self.shares.ended(model.share, run_ns)
        while (share := self.shares.next()) is not None:
            self.dispatch(next(each for each in self.models if each.share is share))
        self.dispatch(model)

    def check(self) -> None:
        for model in self.models:
            assert model.share.running > 0, "a model that has work always runs"
            assert model.free == 0 or self.running >= self.cores, "no core is idle meanwhile"


@given(st.integers(1, 8), st.lists(st.tuples(RUN_TIMES, st.integers(1, 6)), min_size=2, max_size=5))
def test_no_model_waits_for_another_and_no_core_idles(
    cores: int, models: list[tuple[list[int], int]]
) -> None:
    machine = Machine(cores)
    for run_ns, instances in models:
        machine.add(run_ns, instances)
    for _ in range(100):
        machine.step()
        machine.check()


@given(st.integers(1, 8), st.lists(RUN_TIMES, min_size=2, max_size=5))
def test_models_that_are_never_idle_get_equal_time(cores: int, models: list[list[int]]) -> None:
    machine = Machine(cores)
    for run_ns in models:
        machine.add(run_ns, instances=cores)
    for _ in range(400):
        machine.step()
        for one, other in combinations(machine.models, 2):
            assert abs(one.used_ns - other.used_ns) <= 2 * cores * LONGEST_NS


@given(st.integers(1, 6), RUN_TIMES, RUN_TIMES, st.integers(1, 200))
def test_neither_idleness_nor_work_while_alone_counts_later(
    cores: int, old_ns: list[int], new_ns: list[int], head_start: int
) -> None:
    machine = Machine(cores)
    old = machine.add(old_ns, instances=cores)
    for _ in range(head_start):
        machine.step()
    before_ns, new = old.used_ns, machine.add(new_ns, instances=cores)
    for _ in range(200):
        machine.step()
        assert abs(old.used_ns - before_ns - new.used_ns) <= 2 * cores * LONGEST_NS


def test_a_model_that_is_alone_has_all_its_instances() -> None:
    shares = CoreShares(cores=1)
    share = shares.join()
    assert shares.allowance(share, 4) == 4


def test_a_model_that_left_stands_in_nobody_s_way() -> None:
    machine = Machine(1)
    gone, kept = machine.add([10], instances=1), machine.add([10], instances=3)
    machine.shares.leave(gone.share)
    machine.models.remove(gone)
    assert machine.shares.allowance(kept.share, kept.free) == 2
    machine.shares.ended(gone.share, 10)
    assert kept.share.running == 1
