"""Whose text is cut into tokens next, and whose never."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vecserve_server.encoding.tokenising import (
    ON_LOOP_CHARACTERS,
    PIECE_CHARACTERS,
    PIECE_TEXTS,
    Tokenising,
    pieces,
)
from vecserve_server.errors import DeadlineExceeded

SHORT, LONG = PIECE_CHARACTERS, PIECE_CHARACTERS + 1
PATIENCE_S = 60.0


class Machine:
    """One thread for short texts, one for long ones, and a clock that a test sets."""

    def __init__(self) -> None:
        self.now_ns = 0
        self.done: list[str] = []
        self.pools = [ThreadPoolExecutor(1), ThreadPoolExecutor(1)]
        self.tokenising = Tokenising(
            pool=self.pools[0], threads=1, long_pool=self.pools[1], clock_ns=lambda: self.now_ns
        )

    def run(
        self,
        name: str,
        characters: int,
        deadline_ns: int | None = None,
        gate: threading.Event | None = None,
    ) -> asyncio.Task[None]:
        def work() -> None:
            if gate is not None:
                assert gate.wait(PATIENCE_S)
            self.done.append(name)

        run = self.tokenising.run(work, characters=characters, deadline_ns=deadline_ns)
        return asyncio.ensure_future(run)


@pytest.fixture
def machine() -> Iterator[Machine]:
    made = Machine()
    yield made
    for pool in made.pools:
        pool.shutdown()


async def test_little_goes_before_much_and_in_its_order(machine: Machine) -> None:
    gate = threading.Event()
    tasks = [machine.run("first", SHORT, gate=gate)]
    await asyncio.sleep(0)
    for name, size in (("large", 9000), ("b", 500), ("a", 400), ("c", 500)):
        tasks.append(machine.run(name, size))
        await asyncio.sleep(0)
    gate.set()
    await asyncio.gather(*tasks)
    assert machine.done == ["first", "a", "b", "c", "large"]


async def test_what_is_long_holds_up_nothing_short(machine: Machine) -> None:
    gate = threading.Event()
    long = [machine.run(f"long {number}", LONG, gate=gate) for number in range(3)]
    await asyncio.sleep(0)
    await asyncio.gather(machine.run("short", SHORT), machine.run("tiny", ON_LOOP_CHARACTERS))
    assert set(machine.done) == {"short", "tiny"}
    gate.set()
    await asyncio.gather(*long)


@pytest.mark.parametrize("size", [SHORT, LONG])
async def test_nothing_is_begun_for_who_has_left_or_is_too_late(
    machine: Machine, size: int
) -> None:
    gate = threading.Event()
    running = machine.run("running", size, gate=gate)
    await asyncio.sleep(0)
    left, late, last = (
        machine.run("left", size),
        machine.run("late", size, deadline_ns=5),
        machine.run("last", size),
    )
    await asyncio.sleep(0)
    left.cancel()
    machine.now_ns = 5
    gate.set()
    with pytest.raises(DeadlineExceeded):
        await late
    await asyncio.gather(running, last)
    assert machine.done == ["running", "last"]


async def test_a_thread_counts_as_busy_until_its_work_has_ended(machine: Machine) -> None:
    gate = threading.Event()
    running = machine.run("running", SHORT, gate=gate)
    await asyncio.sleep(0)
    running.cancel()
    after = [machine.run("large", SHORT), machine.run("small", 300)]
    await asyncio.sleep(0)
    gate.set()
    await asyncio.gather(*after)
    assert machine.done[-2:] == ["small", "large"]


@given(st.lists(st.integers(0, 2 * PIECE_CHARACTERS), max_size=300))
def test_pieces_are_in_order_and_bounded(sizes: list[int]) -> None:
    cut = pieces(range(len(sizes)), sizes.__getitem__)
    assert [index for piece in cut for index in piece] == list(range(len(sizes)))
    for piece in cut:
        assert 1 <= len(piece) <= PIECE_TEXTS
        assert len(piece) == 1 or sum(sizes[index] for index in piece) <= PIECE_CHARACTERS
