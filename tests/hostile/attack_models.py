"""Models that never end, loads of names that nobody knows, and loads that are too large."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import grpc
import numpy as np
import onnx
from onnx import TensorProto, helper
from tritonclient.grpc import service_pb2

from tests.hostile.target import Target, outcomes
from tests.hostile.watching import size_of

Code = grpc.StatusCode
MIB = 1 << 20
INVENTED, LOAD_S = 2000, 8.0
PROBED = "all-MiniLM-L6-v2"


def endless(target: Target) -> None:
    """A model whose warm-up never ends, and one whose run does not."""
    warm_up = [
        {
            "name": "all",
            "batch_size": 0,
            "inputs": {"x": {"data_type": "TYPE_FP32", "dims": [1], "zero_data": True}},
        }
    ]
    with target.stubs() as stubs:
        for name, config in (("spin-warm", {"model_warmup": warm_up}), ("spin", {})):
            _load(stubs.inference, name, config, _endless_model()).code()
        request = service_pb2.ModelInferRequest(
            model_name="spin",
            inputs=[{"name": "x", "datatype": "FP32", "shape": [1]}],
            raw_input_contents=[np.ones(1, np.float32).tobytes()],
        )
        outcomes([stubs.inference.ModelInfer.future(request, timeout=1.0) for _ in range(4)])
        for name in ("spin", "spin-warm"):
            _unload(stubs.inference, name).code()
        # Whoever loads a model of good behaviour afterwards is served.
        again = service_pb2.RepositoryModelLoadRequest(model_name=PROBED)
        stubs.inference.RepositoryModelLoad(again, timeout=60.0)


def many_threads(target: Target) -> None:
    """A model that asks for a thousand threads."""
    before = size_of(target.pid).threads
    config = {"parameters": {"intra_op_thread_count": {"string_value": "1024"}}}
    with target.stubs() as stubs:
        _load(stubs.inference, "wide", config, _identity()).code()
        assert size_of(target.pid).threads < before + 100
        _unload(stubs.inference, "wide").code()


def invented_names(target: Target) -> None:
    """Loads of two thousand models that are nowhere, and one load of each kind of bad name."""
    with target.stubs() as stubs:
        index = service_pb2.RepositoryIndexRequest()
        before = len(stubs.inference.RepositoryIndex(index, timeout=30.0).models)
        for first in range(0, INVENTED, 50):
            outcomes(
                [
                    stubs.inference.RepositoryModelLoad.future(
                        service_pb2.RepositoryModelLoadRequest(model_name=f"invented-{number}"),
                        timeout=LOAD_S,
                    )
                    for number in range(first, first + 50)
                ]
            )
        assert len(stubs.inference.RepositoryIndex(index, timeout=30.0).models) <= before + 64


def large_loads(target: Target) -> None:
    """Loads of 200 MB, which no message holds by default, and many of 30 MB at once."""
    with target.stubs() as stubs:
        large = [_load(stubs.inference, f"large-{n}", {}, bytes(200 * MIB)) for n in range(4)]
        assert set(outcomes(large)) <= {Code.RESOURCE_EXHAUSTED, Code.UNAVAILABLE}
        many = [_load(stubs.inference, f"many-{n}", {}, bytes(30 * MIB)) for n in range(24)]
        assert Code.OK not in outcomes(many)


def _load(stub: Any, name: str, config: Mapping[str, object], model: bytes) -> Any:
    described = {"name": name, "backend": "onnxruntime", "max_batch_size": 0, **config}
    request = service_pb2.RepositoryModelLoadRequest(model_name=name)
    request.parameters["config"].string_param = json.dumps(described)
    request.parameters["file:1/model.onnx"].bytes_param = model
    return stub.RepositoryModelLoad.future(request, timeout=LOAD_S)


def _unload(stub: Any, name: str) -> Any:
    request = service_pb2.RepositoryModelUnloadRequest(model_name=name)
    return stub.RepositoryModelUnload.future(request, timeout=LOAD_S)


def _endless_model() -> bytes:
    """y = x, added to itself for as long as there are numbers."""
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["going"], ["goes_on"]),
            helper.make_node("Mul", ["so_far", "one"], ["then"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("going", TensorProto.BOOL, []),
            helper.make_tensor_value_info("so_far", TensorProto.FLOAT, [1]),
        ],
        [
            helper.make_tensor_value_info("goes_on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("then", TensorProto.FLOAT, [1]),
        ],
        initializer=[onnx.numpy_helper.from_array(np.ones(1, np.float32), "one")],
    )
    nodes = [helper.make_node("Loop", ["most", "yes", "x"], ["y"], body=body)]
    constants = [
        onnx.numpy_helper.from_array(np.array(2**62, np.int64), "most"),
        onnx.numpy_helper.from_array(np.array(True), "yes"),
    ]
    return _model(nodes, constants)


def _identity() -> bytes:
    return _model([helper.make_node("Identity", ["x"], ["y"])], [])


def _model(nodes: list[onnx.NodeProto], constants: list[onnx.TensorProto]) -> bytes:
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])]
    graph = helper.make_graph(nodes, "graph", inputs, outputs, initializer=constants)
    opset = [helper.make_opsetid("", 17)]
    made: bytes = helper.make_model(graph, opset_imports=opset, ir_version=8).SerializeToString()
    return made
