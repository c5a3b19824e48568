"""OpenVINO: a specialised engine takes less time, and gives the same vectors."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from logging.handlers import BufferingHandler
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.encoding.conftest import NAME, needs_openvino
from tests.text_models import open_encoder
from vecserve_server.domain.shapes import Shape
from vecserve_server.domain.vectors import Vectors
from vecserve_server.encoding.encoder_session import EncoderSession
from vecserve_server.encoding.packing import pack
from vecserve_server.engines.engine import Feeds
from vecserve_server.engines.openvino import session as openvino_session
from vecserve_server.engines.openvino.branches import with_branches
from vecserve_server.engines.openvino.runtime import openvino_module, openvino_opset

pytestmark = needs_openvino

FIXED = [Shape(1, 16), Shape(2, 32), Shape(1, 64)]
OTHER = [Shape(1, 32), Shape(3, 32), Shape(2, 64)]
TIMEOUT_S = 120.0


def batch(shape: Shape, sequences: int, seed: int) -> Feeds:
    """Fill every row with about as many sequences."""
    random = np.random.default_rng(seed)
    each = max(1, min(sequences, shape.width) // shape.rows)
    ids = [random.integers(1000, 20_000, shape.width // each) for _ in range(each * shape.rows)]
    rows = [list(range(at, at + each)) for at in range(0, len(ids), each)]
    return pack(ids, rows, shape)


def vectors(engine: EncoderSession, feeds: Feeds) -> Vectors:
    """Return the vectors of the sequences; slots beyond them hold anything."""
    count = int(feeds["segment_ids"].max()) + 1
    return engine.run(feeds).vectors[:count]


@pytest.fixture(scope="module")
def model_file(model_repository: Path) -> Path:
    return model_repository / NAME / "1" / "model.int8.xml"


@pytest.fixture(scope="module")
def general(model_file: Path) -> Iterator[EncoderSession]:
    engine = open_encoder("openvino", model_file, threads=1)
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def specialised(model_file: Path) -> Iterator[EncoderSession]:
    engine = open_encoder("openvino", model_file, threads=2)
    engine.warm_up([batch(shape, 1, 0) for shape in FIXED])
    engine.specialise(FIXED)
    assert engine.await_specialised(TIMEOUT_S)
    yield engine
    engine.close()


@settings(max_examples=25, suppress_health_check=list(HealthCheck))
@given(
    shape=st.sampled_from([*FIXED, *OTHER]),
    sequences=st.integers(1, 64),
    seed=st.integers(0, 2**32 - 1),
)
def test_vectors_are_bit_for_bit_those_of_the_general_graph(
    general: EncoderSession, specialised: EncoderSession, shape: Shape, sequences: int, seed: int
) -> None:
    feeds = batch(shape, sequences, seed)

    np.testing.assert_array_equal(vectors(specialised, feeds), vectors(general, feeds))


def test_runs_of_a_fixed_shape_take_its_branch_and_others_take_none(
    general: EncoderSession, model_file: Path
) -> None:
    core = openvino_module().Core()
    model = with_branches(core.read_model(model_file), FIXED)
    mark_branches(model)
    request = core.compile_model(model, "CPU").create_infer_request()
    for shape in [*FIXED, *OTHER]:
        feeds = batch(shape, 1, 0)
        request.infer(feeds)
        added = request.get_tensor("norm").data[0] - general.run(feeds).norms[0]
        assert round(float(added)) == (mark_of(*shape) if shape in FIXED else 0)


def test_a_shape_that_32_bits_cannot_tell_from_others_gets_no_branch(model_file: Path) -> None:
    model = openvino_module().Core().read_model(model_file)
    for shape in [Shape(1, 1 << 16), Shape(1 << 15, 16)]:
        with pytest.raises(ValueError, match="no key of 32 bits"):
            with_branches(model, [shape])


def mark_of(rows: int, width: int) -> int:
    return 1000 * rows + width


def mark_branches(model: Any) -> None:
    """Let every branch of a fixed shape add a number of its own to the norms."""
    op = openvino_opset()
    for choice in (node for node in model.get_ops() if node.get_type_name() == "If"):
        for body in (choice.get_function(0), choice.get_function(1)):
            mark_branches(body)
            shape = fixed_shape(body)
            if shape is not None:
                last = body.get_results()[1].input(0)  # the embedding comes first
                mark = op.constant(np.array([mark_of(*shape)], np.float32))
                last.replace_source_output(op.add(last.get_source_output(), mark).output(0))


def fixed_shape(body: Any) -> tuple[int, int] | None:
    """Return the grid that the parameters of a branch are given, where there is one."""
    for parameter in body.get_parameters():
        for reader in parameter.output(0).get_target_inputs():
            if reader.get_node().get_type_name() == "Reshape":
                target = reader.get_node().input_value(1).get_node().data
                if len(target) == 2:
                    return int(target[0]), int(target[1])
    return None


def test_threads_share_a_specialised_engine(
    general: EncoderSession, specialised: EncoderSession
) -> None:
    batches = [batch(shape, 2, seed) for seed, shape in enumerate([*FIXED, *OTHER] * 4)]
    expected = [vectors(general, feeds) for feeds in batches]

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda feeds: vectors(specialised, feeds), batches))

    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.fixture
def compiler(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Keep the compiler from its work until the event is set."""
    may_begin = threading.Event()

    def held(*arguments: Any) -> Any:
        assert may_begin.wait(TIMEOUT_S)
        return with_branches(*arguments)

    monkeypatch.setattr(openvino_session, "with_branches", held)
    yield may_begin
    may_begin.set()


def test_an_engine_serves_while_it_is_specialised(
    model_file: Path, compiler: threading.Event
) -> None:
    engine = open_encoder("openvino", model_file, threads=1)
    feeds = batch(FIXED[0], 1, 0)
    expected = vectors(engine, feeds)
    engine.specialise(FIXED[:1])

    np.testing.assert_array_equal(vectors(engine, feeds), expected)
    assert not engine.await_specialised(0.0)
    compiler.set()
    while not engine.await_specialised(0.0):
        np.testing.assert_array_equal(vectors(engine, feeds), expected)
    np.testing.assert_array_equal(vectors(engine, feeds), expected)
    engine.close()


def test_closing_does_not_wait_for_the_compiler(
    model_file: Path, compiler: threading.Event
) -> None:
    engine = open_encoder("openvino", model_file, threads=1)
    engine.specialise(FIXED)
    engine.close()

    assert not engine.await_specialised(0.0)
    compiler.set()
    assert engine.await_specialised(TIMEOUT_S)


def test_no_shapes_are_nothing_to_do(general: EncoderSession) -> None:
    general.specialise([])

    assert general.await_specialised(0.0)


def test_an_engine_that_cannot_be_specialised_goes_on_and_says_so(
    model_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise RuntimeError("no such operator")

    handler = BufferingHandler(capacity=100)
    monkeypatch.setattr(openvino_session, "with_branches", fail)
    log = logging.getLogger("vecserve.encoding")
    log.addHandler(handler)
    try:
        engine = open_encoder("openvino", model_file, threads=1)
        engine.specialise(FIXED)
        assert engine.await_specialised(TIMEOUT_S)
        assert np.isfinite(vectors(engine, batch(FIXED[0], 1, 0))).all()
        engine.close()
    finally:
        log.removeHandler(handler)

    assert [record.getMessage() for record in handler.buffer] == ["not_specialised"]
