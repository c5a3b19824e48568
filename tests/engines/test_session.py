"""ONNX Runtime with every type of tensor."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from onnx import TensorProto, helper

from tests.engines import tiny_models
from tests.engines.tiny_models import config, identity, model, value
from vecserve_server.engines.engine import SessionSettings
from vecserve_server.engines.onnx_settings import onnx_settings
from vecserve_server.engines.onnxruntime.session import OnnxRuntimeSession
from vecserve_server.engines.registry import shipped_engines
from vecserve_server.engines.time_limit import TimeLimit
from vecserve_server.errors import EngineError, ModelError, RequestError
from vecserve_server.model_files.datatypes import DATATYPES, Datatype


def settings_of(text: str) -> SessionSettings:
    return onnx_settings(config(text), shipped_engines().onnx_names, intra_op_threads=1).session


SETTINGS = settings_of("")


def open_session(folder: Path, proto: onnx.ModelProto) -> OnnxRuntimeSession:
    path = folder / "model.onnx"
    onnx.save(proto, path)
    return OnnxRuntimeSession(path, SETTINGS)


@pytest.fixture(params=DATATYPES, ids=lambda datatype: datatype.name)
def datatype(request: pytest.FixtureRequest) -> Datatype:
    made: Datatype = request.param
    return made


def arrays(datatype: Datatype) -> st.SearchStrategy[NDArray[Any]]:
    shapes = hnp.array_shapes(min_dims=2, max_dims=2, min_side=0, max_side=4)
    if datatype.is_bytes:
        return hnp.arrays(object, shapes, elements=st.binary(max_size=40), fill=None)
    if datatype.name == "BF16":
        return hnp.arrays(np.uint16, shapes).map(lambda bits: bits.view(datatype.numpy))
    return hnp.arrays(datatype.numpy, shapes)


@hypothesis_settings(max_examples=30, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_every_type_comes_out_as_it_went_in(
    datatype: Datatype, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    session = open_session(tmp_path_factory.mktemp("m"), identity(["n", "t"], datatype))
    assert session.graph.inputs["x"].datatype == datatype
    array = data.draw(arrays(datatype))
    (answer,) = session.run({"x": array}, ["y"])
    assert answer.dtype == array.dtype
    if datatype.name == "BF16":
        answer, array = answer.view(np.uint16), array.view(np.uint16)
    np.testing.assert_array_equal(answer, array, strict=True)


def test_bfloat16_goes_beside_other_types(tmp_path: Path) -> None:
    bfloat16, single = TensorProto.BFLOAT16, TensorProto.FLOAT
    nodes = [
        helper.make_node("Cast", ["x"], ["wide"], to=single),
        helper.make_node("Add", ["wide", "z"], ["sum"]),
        helper.make_node("Cast", ["sum"], ["y"], to=bfloat16),
    ]
    inputs = [value("x", ["n"], bfloat16), value("z", ["n"], single)]
    outputs = [value("y", ["n"], bfloat16), value("sum", ["n"], single)]
    session = open_session(tmp_path, model(nodes, inputs, outputs))
    feeds = {
        "x": np.array([1.5, -2], ml_dtypes.bfloat16),
        "z": np.array([1, 2], np.float32),
    }
    y, total = session.run(feeds, ["y", "sum"])
    assert y.dtype == ml_dtypes.bfloat16
    assert y.astype(np.float32).tolist() == total.tolist() == [2.5, 0]


def test_bfloat16_goes_beside_strings(tmp_path: Path) -> None:
    kinds = {"x": TensorProto.BFLOAT16, "s": TensorProto.STRING}
    inputs = [value(name, ["n"], kind) for name, kind in kinds.items()]
    outputs = [value(f"{name}y", ["n"], kind) for name, kind in kinds.items()]
    nodes = [helper.make_node("Identity", [name], [f"{name}y"]) for name in kinds]
    session = open_session(tmp_path, model(nodes, inputs, outputs))
    feeds = {"x": np.array([1.5], ml_dtypes.bfloat16), "s": np.array([b"\xff\xfe"], object)}
    x, s = session.run(feeds, ["xy", "sy"])
    assert x.tolist() == [1.5]
    assert s.tolist() == [b"\xff\xfe"]


def test_a_run_without_end_is_ended(tmp_path: Path) -> None:
    session = open_session(tmp_path, tiny_models.endless())
    with TimeLimit(0.05) as limit, pytest.raises(EngineError, match="terminate"):
        session.run({"x": np.ones(1, np.float32)}, ["y"], limit)


def test_the_file_tells_a_scalar_from_a_tensor_of_any_shape(tmp_path: Path) -> None:
    nodes = [helper.make_node("Identity", [name], [f"{name}y"]) for name in ("a", "b")]
    inputs = [value("a", []), value("b", None)]
    outputs = [value("ay", []), value("by", None)]
    graph = open_session(tmp_path, model(nodes, inputs, outputs)).graph
    assert {name: each.is_scalar for name, each in graph.inputs.items()} == {"a": True, "b": False}
    assert graph.outputs["ay"].is_scalar


def test_read_only_memory_is_read_where_it_lies(tmp_path: Path) -> None:
    session = open_session(tmp_path, identity(["n"]))
    memory = np.frombuffer(np.arange(4, dtype="<f4").tobytes(), "<f4")
    assert not memory.flags.writeable
    np.testing.assert_array_equal(session.run({"x": memory[1:]}, ["y"])[0], [1, 2, 3])


def test_a_type_that_no_caller_could_send_is_refused_at_load(tmp_path: Path) -> None:
    x, y = (helper.make_tensor_sequence_value_info(name, TensorProto.FLOAT, ["n"]) for name in "xy")
    proto = model([helper.make_node("Identity", ["x"], ["y"])], [x], [y])
    with pytest.raises(ModelError, match=r'model.onnx: input "x": type .* is not supported'):
        open_session(tmp_path, proto)


def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(b"not a model")
    with pytest.raises(ModelError, match="not loadable by ONNX Runtime"):
        OnnxRuntimeSession(path, SETTINGS)


def test_a_gpu_that_is_not_there_is_no_reason_to_run_on_the_cpu(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    onnx.save(identity(["n"]), path)
    with pytest.raises(ModelError):
        OnnxRuntimeSession(path, replace(SETTINGS, device_id=99))


def test_values_that_the_graph_cannot_take_are_the_callers_fault(tmp_path: Path) -> None:
    session = open_session(tmp_path, tiny_models.table_lookup())
    with pytest.raises(RequestError, match="refuses the inputs"):
        session.run({"id": np.array([[tiny_models.VOCABULARY]])}, ["row"])


def test_a_run_that_fails_is_the_engines_fault(tmp_path: Path) -> None:
    values = [value(name, [size]) for name, size in (("a", "n"), ("b", "m"), ("y", "k"))]
    add = model([helper.make_node("Add", ["a", "b"], ["y"])], values[:2], values[2:])
    session = open_session(tmp_path, add)
    with pytest.raises(EngineError, match="ONNX Runtime failed"):
        session.run({"a": np.ones(3, np.float32), "b": np.ones(2, np.float32)}, ["y"])


def test_an_initialiser_that_can_be_replaced_is_an_optional_input(tmp_path: Path) -> None:
    session = open_session(tmp_path, tiny_models.scaled())
    assert {name: each.optional for name, each in session.graph.inputs.items()} == {
        "x": False,
        "factor": True,
    }
    x = np.ones(2, np.float32)
    assert session.run({"x": x}, ["y"])[0].tolist() == [3, 3]
    factor = np.array([5], np.float32)
    assert session.run({"x": x, "factor": factor}, ["y"])[0].tolist() == [5, 5]


def test_every_setting_is_taken_by_onnx_runtime(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    onnx.save(identity(["n"]), path)
    for level in (-1, 0, 1, 2):
        for flag in ("0", "1"):
            parameters = {
                "intra_op_thread_count": "2",
                "inter_op_thread_count": "2",
                "execution_mode": flag,
                "enable_mem_arena": flag,
                "enable_mem_pattern": flag,
                "session.use_device_allocator_for_initializers": flag,
            }
            if flag == "1":
                parameters["memory.enable_memory_arena_shrinkage"] = "cpu:0"
            text = f"optimization {{ graph {{ level: {level} }} }}" + "".join(
                f'parameters {{ key: "{key}" value {{ string_value: "{text}" }} }}'
                for key, text in parameters.items()
            )
            session = OnnxRuntimeSession(path, settings_of(text))
            assert session.run({"x": np.ones(1, np.float32)}, ["y"])[0].tolist() == [1]
