"""Models too large for one protobuf file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx

from vecserve_server.importing.graph.graph import GraphBuilder
from vecserve_server.importing.quantise.sample_run import open_session
from vecserve_server.importing.sources.model_file import save_model


def test_tensors_of_a_large_model_go_to_a_second_file(tmp_path: Path) -> None:
    graph = GraphBuilder()
    x = graph.input("x", onnx.TensorProto.FLOAT, ["N", 64])
    weight = np.random.default_rng(0).normal(size=(64, 64)).astype(np.float32)
    graph.output("y", graph.op("MatMul", x, graph.const(weight)), onnx.TensorProto.FLOAT, ["N", 64])

    save_model(graph.model("large"), tmp_path / "model.onnx", external_from_bytes=0)

    assert {path.name for path in tmp_path.iterdir()} == {"model.onnx", "model.onnx.data"}
    assert len({path.stat().st_mode for path in tmp_path.iterdir()}) == 1, "who may read them"
    found = open_session(tmp_path / "model.onnx").run(None, {"x": np.eye(64, dtype=np.float32)})
    np.testing.assert_allclose(found[0], weight, rtol=1e-6)
