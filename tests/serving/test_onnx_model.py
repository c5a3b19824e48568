"""An ONNX model from its folder to its answers."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from tests.engines import tiny_models
from tests.engines.tiny_models import config, identity, save, scaled, sum_and_double, table_lookup
from vecserve_server.domain.tensors import TensorRequest
from vecserve_server.engines.openvino.runtime import openvino_is_installed
from vecserve_server.engines.registry import shipped_engines
from vecserve_server.errors import InvalidArgument, ModelError, RequestError
from vecserve_server.model_files.datatypes import DATATYPES, Datatype
from vecserve_server.observability.metrics import make_metrics
from vecserve_server.observability.model_statistics import ModelStatistics
from vecserve_server.scheduling.cores import Cores
from vecserve_server.services.inference import TensorModel
from vecserve_server.serving.model_versions import LoadedVersion, VersionSource
from vecserve_server.serving.onnx_loader import OnnxDefaults, OnnxLoader

PATIENCE_S = 60.0
Load = Callable[..., Awaitable[TensorModel]]
LoadWhole = Callable[..., Awaitable[LoadedVersion]]


class Runs(ModelStatistics):
    """Keeps the rows of every run."""

    def __init__(self) -> None:
        super().__init__(wall_clock_ms=int)
        self.rows: list[int] = []

    def executed(self, rows: int, *times_ns: int) -> None:
        assert len(times_ns) == 3
        assert all(time_ns >= 0 for time_ns in times_ns)
        self.rows.append(rows)


@pytest.fixture
def runs() -> Runs:
    return Runs()


@pytest.fixture
async def load_whole(tmp_path: Path, runs: Runs) -> AsyncIterator[LoadWhole]:
    async with AsyncExitStack() as stack:
        pool = stack.enter_context(ThreadPoolExecutor(1))

        async def loaded(
            proto: onnx.ModelProto, text: str = "", *, folder: Path | None = None, **defaults: Any
        ) -> LoadedVersion:
            loader = OnnxLoader(
                engines=shipped_engines(),
                defaults=OnnxDefaults(**{"cpu_cores": 1, **defaults}),
                metrics=make_metrics(),
                clock_ns=time.perf_counter_ns,
                load_pool=pool,
                cores=Cores(count=1),
            )
            root = (folder or save(tmp_path, proto)).parent
            config_ = config(f'name: "m" {text}')
            source = VersionSource(root=root, name="m", version="1", proto=config_)
            version = await loader.load(source, runs)
            stack.push_async_callback(version.close, PATIENCE_S)
            return version

        yield loaded


@pytest.fixture
def load(load_whole: LoadWhole) -> Load:
    async def loaded(*args: Any, **options: Any) -> TensorModel:
        return await load_whole(*args, **options)

    return loaded


async def infer(
    model: TensorModel, *outputs: str, **inputs: NDArray[Any]
) -> dict[str, NDArray[Any]]:
    reply = await model.infer(TensorRequest(inputs=inputs, outputs=outputs))
    assert reply.times.queue_ns >= 0
    assert reply.times.compute_infer_ns > 0
    return dict(reply.outputs)


def floats(*shape: int) -> NDArray[np.float32]:
    return np.arange(np.prod(shape), dtype=np.float32).reshape(shape)


async def test_a_model_without_a_configuration_is_served(load: Load, runs: Runs) -> None:
    model = await load(sum_and_double())
    assert (model.name, model.version, model.config.max_batch_size) == ("m", "1", 4)
    x = floats(3, 2)
    answer = await infer(model, x=x)
    assert list(answer) == ["sum", "double"]
    np.testing.assert_array_equal(answer["sum"], x.sum(1, keepdims=True), strict=True)
    np.testing.assert_array_equal(answer["double"], 2 * x, strict=True)
    assert runs.rows == [3]


async def test_only_the_outputs_asked_for_come_in_their_order(load: Load) -> None:
    model = await load(sum_and_double())
    assert list(await infer(model, "double", x=floats(1, 2))) == ["double"]
    assert list(await infer(model, "double", "sum", x=floats(1, 2))) == ["double", "sum"]


async def test_bytes_are_any_bytes(load: Load) -> None:
    model = await load(identity(["n", 2], next(each for each in DATATYPES if each.is_bytes)))
    image = bytes(range(256)) * 1000
    x = np.array([[b"\xff\xfe", image], [b"", b"\0a\0"]], object)
    answer = await infer(model, x=x)
    assert answer["y"].tolist() == x.tolist()


@pytest.mark.parametrize("datatype", DATATYPES, ids=lambda each: each.name)
@pytest.mark.parametrize("batched", [True, False])
async def test_every_type_goes_through(load: Load, datatype: Datatype, batched: bool) -> None:
    model = await load(identity(["n", 2] if batched else [3, 2], datatype))
    assert model.config.max_batch_size == (4 if batched else 0)
    flat = [str(each).encode() for each in range(6)] if datatype.is_bytes else range(6)
    x = np.array(flat, datatype.numpy).reshape(3, 2)
    reply = await model.infer(TensorRequest(inputs={"x": x}))
    np.testing.assert_array_equal(reply.outputs["y"], x, strict=True)


async def test_requests_that_wait_together_run_together(load: Load, runs: Runs) -> None:
    text = "max_batch_size: 8 dynamic_batching {}"
    model = await load(sum_and_double(), text, hold_until_queued=3)
    asked = [floats(rows, 2) + rows for rows in (1, 2, 3)]
    answers = await asyncio.gather(*(infer(model, x=x) for x in asked))
    for x, answer in zip(asked, answers, strict=True):
        np.testing.assert_array_equal(answer["double"], 2 * x, strict=True)
    assert runs.rows == [6]


async def test_requests_of_other_shapes_or_outputs(load: Load, runs: Runs) -> None:
    text = "max_batch_size: 8 dynamic_batching {}"
    model = await load(sum_and_double(), text, hold_until_queued=3)
    answers = await asyncio.gather(
        infer(model, "sum", x=floats(1, 2)),
        infer(model, "double", x=floats(1, 2)),
        infer(model, x=floats(1, 3)),
    )
    assert [list(each) for each in answers] == [["sum"], ["double"], ["sum", "double"]]
    assert runs.rows == [2, 1], "another shape is another batch, other outputs are not"


async def test_a_model_without_batches_runs_requests_one_by_one(load: Load, runs: Runs) -> None:
    text = "dynamic_batching {}"
    model = await load(identity([2]), text, hold_until_queued=2)
    answers = await asyncio.gather(*(infer(model, x=floats(2) + k) for k in range(2)))
    assert [each["y"].tolist() for each in answers] == [[0, 1], [1, 2]]
    assert runs.rows == [1, 1]


async def test_an_optional_input_may_be_left_out(load: Load) -> None:
    text = """
    input { name: "x" data_type: TYPE_FP32 dims: -1 }
    input { name: "factor" data_type: TYPE_FP32 dims: 1 optional: true }
    output { name: "y" data_type: TYPE_FP32 dims: -1 }
    """
    model = await load(scaled(), text)
    assert (await infer(model, x=floats(3)))["y"].tolist() == [0, 3, 6]
    factor = np.array([5], np.float32)
    assert (await infer(model, x=floats(3), factor=factor))["y"].tolist() == [0, 5, 10]


async def test_tensors_are_reshaped_between_callers_and_the_graph(load: Load) -> None:
    text = """
    max_batch_size: 4
    input { name: "x" data_type: TYPE_FP32 dims: [1, 2, -1] reshape { shape: [2, -1] } }
    output { name: "y" data_type: TYPE_FP32 dims: [2, -1, 1] reshape { shape: [2, -1] } }
    """
    model = await load(identity(["n", 2, "t"]), text)
    x = floats(3, 1, 2, 5)
    np.testing.assert_array_equal((await infer(model, x=x))["y"], x.reshape(3, 2, 5, 1))


async def test_a_scalar_output_has_one_element(load: Load) -> None:
    model = await load(identity([]))
    assert list(model.config.output[0].dims) == [1]
    assert (await infer(model, x=np.array([7], np.float32)))["y"].tolist() == [7]


async def test_a_poisoned_request_fails_alone(load: Load, runs: Runs) -> None:
    text = "max_batch_size: 8 dynamic_batching {}"
    model = await load(table_lookup(), text, hold_until_queued=3)
    ids = [np.array([[each]]) for each in (1, tiny_models.VOCABULARY, 3)]
    answers = await asyncio.gather(*(infer(model, id=each) for each in ids), return_exceptions=True)
    assert isinstance(answers[1], RequestError)
    rows = [each["row"].tolist() for each in answers if isinstance(each, dict)]
    assert rows == [[[10.0]], [[30.0]]]
    assert runs.rows == [1, 1]


async def test_an_input_that_is_missing_is_refused_by_its_name(load: Load, runs: Runs) -> None:
    model = await load(sum_and_double())
    with pytest.raises(InvalidArgument, match=r"inputs\.x: is missing"):
        await infer(model)
    assert runs.rows == []


async def test_a_model_is_warmed_up_before_it_is_ready(load: Load, runs: Runs) -> None:
    sample = """
    model_warmup { name: "first" batch_size: 2 count: 2
        inputs { key: "id" value { data_type: TYPE_INT64 dims: 1 input_data_file: "id" } } }
    """
    with pytest.raises(ModelError, match="warmup/id is not readable"):
        await load(table_lookup(), sample)


async def test_a_warm_up_that_fails_keeps_the_model_from_being_served(
    load: Load, tmp_path: Path
) -> None:
    sample = """
    model_warmup { name: "first" batch_size: 2 count: 2
        inputs { key: "id" value { data_type: TYPE_INT64 dims: 1 input_data_file: "id" } } }
    """
    folder = save(tmp_path, table_lookup())
    (folder / "warmup").mkdir()
    file = folder / "warmup" / "id"
    file.write_bytes(np.array([tiny_models.VOCABULARY], "<i8").tobytes())
    with pytest.raises(ModelError, match='model_warmup "first" the model refuses the inputs'):
        await load(table_lookup(), sample, folder=folder)
    file.write_bytes(np.array([1], "<i8").tobytes())
    model = await load(table_lookup(), sample, folder=folder)
    assert (await infer(model, id=np.array([[2]])))["row"].tolist() == [[20]]


async def test_labels_come_from_the_models_folder(load: Load, tmp_path: Path) -> None:
    text = """
    input { name: "x" data_type: TYPE_FP32 dims: 2 }
    output { name: "y" data_type: TYPE_FP32 dims: 2 label_filename: "labels.txt" }
    """
    folder = save(tmp_path, identity([2]))
    with pytest.raises(ModelError, match=r"labels\.txt: not readable"):
        await load(identity([2]), text, folder=folder)
    (folder / "labels.txt").write_text("cat\ndog\n", encoding="utf-8")
    model = await load(identity([2]), text, folder=folder)
    assert model.labels == {"y": ["cat", "dog"]}


async def test_the_digest_is_of_the_files_and_the_configuration(
    load_whole: LoadWhole, tmp_path: Path
) -> None:
    folder = save(tmp_path, identity([2]))
    once, again = [(await load_whole(identity([2]), folder=folder)).digest for _ in range(2)]
    assert once == again
    other = await load_whole(identity([2]), "dynamic_batching {}", folder=folder)
    (folder / "1" / "more").touch()
    changed = await load_whole(identity([2]), folder=folder)
    assert len({once, other.digest, changed.digest}) == 3


async def test_external_data_lies_beside_the_model(load: Load, tmp_path: Path) -> None:
    weights = onnx.numpy_helper.from_array(np.full(1000, 2, np.float32), "w")
    add = onnx.helper.make_node("Add", ["x", "w"], ["y"])
    proto = tiny_models.model(
        [add], [tiny_models.value("x", [1000])], [tiny_models.value("y", [1000])], [weights]
    )
    folder = tmp_path / "m"
    (folder / "1" / "model.onnx").mkdir(parents=True)
    file = folder / "1" / "model.onnx" / "model.onnx"
    onnx.save(proto, file, save_as_external_data=True, location="weights", size_threshold=0)
    model = await load(proto, folder=folder)
    assert (await infer(model, x=floats(1000)))["y"].sum() == floats(1000).sum() + 2000


async def test_there_is_an_instance_for_each_core_by_default(load: Load) -> None:
    model = await load(identity([2]), cpu_cores=3)
    assert model.config.instance_group[0].count == 3


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("sequence_batching {}", "sequence_batching is not supported"),
        ("instance_group { kind: KIND_GPU }", "KIND_GPU needs ONNX Runtime's"),
        (
            "max_batch_size: 4 dynamic_batching { preferred_batch_size: 5 }",
            "preferred_batch_size must be 1 to max_batch_size",
        ),
    ],
)
async def test_a_configuration_that_cannot_be_kept_is_refused(
    load: Load, text: str, problem: str
) -> None:
    with pytest.raises(ModelError, match=problem):
        await load(sum_and_double(), text)


NOT_FOR_OPENVINO = ("BYTES", "BF16")
OPENVINO = """
optimization { execution_accelerators { cpu_execution_accelerator { name: "openvino" } } }
"""
needs_openvino = pytest.mark.skipif(not openvino_is_installed(), reason="OpenVINO is not installed")


@needs_openvino
@pytest.mark.parametrize(
    "datatype",
    [each for each in DATATYPES if each.name not in NOT_FOR_OPENVINO],
    ids=lambda each: each.name,
)
@pytest.mark.parametrize("shape", [["n", 2], [3, 2], []], ids=["batched", "fixed", "scalar"])
async def test_openvino_runs_the_model_where_it_is_asked_for(
    load: Load, datatype: Datatype, shape: list[int | str]
) -> None:
    model = await load(identity(shape, datatype), OPENVINO)
    x = np.arange(6 if shape else 1).astype(datatype.numpy).reshape((3, 2) if shape else (1,))
    x.flags.writeable = False
    np.testing.assert_array_equal((await infer(model, x=x))["y"], x, strict=True)


@needs_openvino
async def test_openvino_answers_every_request_with_its_own(load: Load, runs: Runs) -> None:
    text = f"max_batch_size: 8 dynamic_batching {{}} instance_group {{ count: 2 }} {OPENVINO}"
    model = await load(sum_and_double(), text, cpu_cores=2)
    asked = [floats(rows, 2) + k for k in range(10) for rows in (1, 2)]
    answers = await asyncio.gather(*(infer(model, "double", "sum", x=x) for x in asked))
    for x, answer in zip(asked, answers, strict=True):
        np.testing.assert_array_equal(answer["double"], 2 * x, strict=True)
        np.testing.assert_array_equal(answer["sum"], x.sum(1, keepdims=True), strict=True)
    assert sum(runs.rows) == 30


@needs_openvino
@pytest.mark.parametrize(
    ("name", "value"),
    [("INT64", 2**31), ("INT64", -(2**31) - 1), ("UINT64", 2**31), ("UINT32", 2**31)],
)
async def test_openvino_refuses_numbers_that_it_would_cut_off(
    load: Load, name: str, value: int
) -> None:
    datatype = next(each for each in DATATYPES if each.name == name)
    model = await load(identity(["n", 2], datatype), OPENVINO)
    with pytest.raises(RequestError, match=f"inputs.x: holds {value}; OpenVINO takes"):
        await infer(model, x=np.array([[1, value]], datatype.numpy))
    within = np.array([[2**31 - 1, 0]], datatype.numpy)
    np.testing.assert_array_equal((await infer(model, x=within))["y"], within)


@needs_openvino
async def test_openvino_refuses_what_it_cannot_run(load: Load, tmp_path: Path) -> None:
    for datatype in (each for each in DATATYPES if each.name in NOT_FOR_OPENVINO):
        model = identity(["n"], datatype)
        folder = save(tmp_path / datatype.name, model)
        with pytest.raises(ModelError, match=f'"x" is {datatype.name}, not for OpenVINO'):
            await load(model, OPENVINO, folder=folder)
    folder = save(tmp_path / "scaled", scaled())
    optional = """
    input { name: "x" data_type: TYPE_FP32 dims: -1 }
    input { name: "factor" data_type: TYPE_FP32 dims: 1 optional: true }
    output { name: "y" data_type: TYPE_FP32 dims: -1 }
    """
    with pytest.raises(ModelError, match='input "factor" is not in the graph'):
        await load(scaled(), optional + OPENVINO, folder=folder)
    loaded = await load(scaled(), OPENVINO, folder=folder)
    assert (await infer(loaded, x=floats(2, 1)))["y"].tolist() == [[0], [3]]
