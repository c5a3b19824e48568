"""Metadata, the model repository, statistics, trace and log settings, with tritonclient."""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncIterator
from typing import Any, TypeAlias

import numpy as np
import pytest
import pytest_asyncio
import tritonclient.grpc.aio as triton
from hypothesis import given
from hypothesis import strategies as st

from tests.gateway.echo_model import DATATYPES, EchoModel, EchoServer, echo_server
from vecserve_server.errors import InvalidArgument, ModelError, Unsupported, VecserveError
from vecserve_server.gateway.kserve.log_levels import LogLevels
from vecserve_server.gateway.kserve.trace_log import DEFAULTS, TraceLog

Client: TypeAlias = triton.InferenceServerClient


@pytest_asyncio.fixture
async def client(echo: EchoServer) -> AsyncIterator[Client]:
    async with triton.InferenceServerClient(echo.target) as made:
        yield made


@pytest.fixture
def traces() -> TraceLog:
    return TraceLog(logger=logging.getLogger("vecserve.trace"))


async def test_the_metadata_says_what_perf_analyzer_reads(client: Client) -> None:
    server = await client.get_server_metadata()
    assert "statistics" in server.extensions
    assert "cuda_shared_memory" not in server.extensions
    metadata = await client.get_model_metadata("echo", "1")
    assert list(metadata.versions) == ["1"]
    assert [tensor.datatype for tensor in metadata.inputs] == list(DATATYPES)
    assert all(list(tensor.shape) == [-1, -1] for tensor in metadata.inputs)
    assert (await client.get_model_config("echo")).config.max_batch_size == 8
    assert await client.is_model_ready("echo")
    assert not await client.is_model_ready("echo", "3")
    statistics = await client.get_inference_statistics("echo")
    assert statistics.model_stats[0].inference_count == 3


async def test_the_index_lists_states_and_reasons(client: Client) -> None:
    index = (await client.get_model_repository_index()).models
    listed = {(model.name, model.state, model.reason) for model in index}
    assert listed == {("broken", "UNAVAILABLE", "no model file"), ("echo", "READY", "")}


async def test_loading_passes_on_the_config_and_the_files(echo: EchoServer, client: Client) -> None:
    await client.load_model("m", config="{}", files={"file:1/model.onnx": b"onnx"})
    await client.load_model("m")
    await client.unload_model("m", unload_dependents=True)
    assert echo.control.asked == [
        ("load", "m", "{}", {"1/model.onnx": b"onnx"}),
        ("load", "m", None, {}),
        ("unload", "m", True),
    ]


async def test_a_model_that_cannot_be_loaded_says_why(echo: EchoServer, client: Client) -> None:
    echo.control.load_failure = ModelError("config.pbtxt: sequence_batching is not supported")
    with pytest.raises(triton.InferenceServerException, match="sequence_batching") as failure:
        await client.load_model("m")
    assert failure.value.status() == "StatusCode.INTERNAL"
    assert failure.value.message().startswith("failed to load 'm': ")
    echo.control.load_failure = InvalidArgument("config", "is wrong")
    with pytest.raises(triton.InferenceServerException) as failure:
        await client.load_model("m")
    assert failure.value.message() == "failed to load 'm': parameters[config]: is wrong"
    assert failure.value.status() == "StatusCode.INVALID_ARGUMENT"


async def test_trace_settings_are_set_read_and_cleared(client: Client) -> None:
    async def read(model: str = "") -> dict[str, list[str]]:
        reply = await client.get_trace_settings(model, as_json=True)
        return {name: value.get("value", []) for name, value in reply["settings"].items()}

    assert await read() == {name: list(values) for name, values in DEFAULTS.items()}
    await client.update_trace_settings(settings={"trace_rate": "5", "trace_level": ["TIMESTAMPS"]})
    await client.update_trace_settings("echo", {"trace_rate": "7"})
    assert (await read("echo"))["trace_rate"] == ["7"]
    assert (await read("echo"))["trace_level"] == ["TIMESTAMPS"]
    await client.update_trace_settings("echo", {"trace_rate": None})
    assert (await read("echo"))["trace_rate"] == ["5"]
    await client.update_trace_settings(settings={"trace_rate": None, "trace_level": None})
    assert (await read("echo"))["trace_rate"] == ["1000"]
    with pytest.raises(triton.InferenceServerException, match="not loaded"):
        await client.get_trace_settings("none")


async def test_traced_requests_are_logged_at_their_rate_and_up_to_their_count(
    client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "vecserve.trace")
    tensor = triton.InferInput("INT8", [1, 1], "INT8")
    tensor.set_data_from_numpy(np.zeros((1, 1), np.int8))
    outputs = [triton.InferRequestedOutput("OUT_INT8")]
    settings = {"trace_level": ["TIMESTAMPS"], "trace_rate": "2", "trace_count": "2"}
    await client.update_trace_settings("echo", settings)
    for number in range(10):
        await client.infer("echo", [tensor], outputs=outputs, request_id=str(number))
    traced: list[Any] = [record.__dict__["fields"] for record in caplog.records]
    assert [fields["request_id"] for fields in traced] == ["1", "3"]
    assert {fields["model"] for fields in traced} == {"echo"}


@pytest.mark.parametrize("with_values", [False, True])
async def test_tensors_are_traced_by_their_shapes_and_by_values_only_where_that_is_allowed(
    caplog: pytest.LogCaptureFixture, with_values: bool
) -> None:
    caplog.set_level(logging.INFO, "vecserve.trace")
    model = EchoModel()
    model.gate.set()
    async with (
        echo_server(model, logs_tensor_values=with_values) as server,
        triton.InferenceServerClient(server.target) as client,
    ):
        tensor = triton.InferInput("BYTES", [1, 100], "BYTES")
        secret = np.array([[b"secret\xff", *[b""] * 99]], object)
        tensor.set_data_from_numpy(secret)
        levels = ["TIMESTAMPS", "TENSORS"]
        settings = {"trace_level": levels, "trace_rate": "1", "log_frequency": "5"}
        await client.update_trace_settings(settings=settings)
        await client.infer("echo", [tensor], outputs=[triton.InferRequestedOutput("OUT_BYTES")])
    assert [record.message for record in caplog.records] == ["trace", *["trace_tensor"] * 2]
    facts: list[Any] = [record.__dict__["fields"] for record in caplog.records[1:]]
    assert [each.get("input", each.get("output")) for each in facts] == ["BYTES", "OUT_BYTES"]
    assert {(each["datatype"], *each["shape"]) for each in facts} == {("BYTES", 1, 100)}
    values = [["secret\\xff", *[""] * 63]] * 2 if with_values else [None] * 2
    assert [each.get("values") for each in facts] == values


@pytest.mark.parametrize(
    ("settings", "kind"),
    [
        ({"trace_rate": ["0"]}, InvalidArgument),
        ({"trace_rate": ["1", "2"]}, InvalidArgument),
        ({"trace_count": ["-2"]}, InvalidArgument),
        ({"trace_count": ["²"]}, InvalidArgument),
        ({"trace_level": ["OFF", "TIMESTAMPS"]}, InvalidArgument),
        ({"trace_level": ["TENSORS", "OFF"]}, InvalidArgument),
        ({"trace_level": ["MAX"]}, InvalidArgument),
        ({"trace_file": ["/tmp/trace"]}, Unsupported),
        ({"trace_mode": ["opentelemetry"]}, Unsupported),
        ({"log_frequency": ["-1"]}, InvalidArgument),
    ],
)
def test_settings_that_do_nothing_are_refused_and_change_nothing(
    traces: TraceLog, settings: dict[str, list[str]], kind: type[Exception]
) -> None:
    with pytest.raises(kind, match=next(iter(settings))):
        traces.update("", {"trace_count": ["9"], **settings})
    assert traces.settings("") == DEFAULTS


NAMES = st.sampled_from([*DEFAULTS, "other"])


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["", "a", "b"]),
            st.dictionaries(
                NAMES,
                st.lists(st.sampled_from(["OFF", "TIMESTAMPS", "-1", "5", "x", ""]), max_size=2),
            ),
        ),
        max_size=8,
    )
)
def test_trace_settings_are_those_that_were_accepted_last(
    updates: list[tuple[str, dict[str, list[str]]]],
) -> None:
    traces = TraceLog(logger=logging.getLogger("vecserve.trace"))
    expected: dict[str, dict[str, tuple[str, ...]]] = {"": {}, "a": {}, "b": {}}
    for model, changes in updates:
        try:
            traces.update(model, changes)
        except VecserveError:
            continue
        for name, values in changes.items():
            expected[model].pop(name, None)
            if values and name != "other":
                expected[model][name] = tuple(values)
    for model in ("", "a", "b"):
        assert traces.settings(model) == {**DEFAULTS, **expected[""], **expected[model]}


async def test_log_settings_are_set_and_read(client: Client) -> None:
    before = await client.get_log_settings(as_json=True)
    assert before["settings"]["log_format"]["string_param"] == "ISO8601"
    changed = {"log_info": False, "log_verbose_level": 2, "log_file": ""}
    after = (await client.update_log_settings(changed, as_json=True))["settings"]
    assert after["log_info"]["bool_param"] is False
    assert after["log_verbose_level"]["uint32_param"] == 2
    restored = {"log_info": True, "log_verbose_level": 0, "log_made_up": True}
    await client.update_log_settings(restored)
    for bad, status in (
        ({"log_file": "/tmp/x"}, "UNIMPLEMENTED"),
        ({"log_format": "default"}, "UNIMPLEMENTED"),
        ({"log_info": None}, "INVALID_ARGUMENT"),
        ({"log_verbose_level": 101}, "INVALID_ARGUMENT"),
    ):
        with pytest.raises(triton.InferenceServerException, match=next(iter(bad))) as refusal:
            await client.update_log_settings(bad)
        assert refusal.value.status() == f"StatusCode.{status}"


@given(info=st.booleans(), warning=st.booleans(), error=st.booleans(), verbose=st.integers(0, 100))
def test_each_level_is_switched_by_its_own_setting(
    info: bool, warning: bool, error: bool, verbose: int
) -> None:
    root = logging.Logger("test")
    written: list[int] = []
    handler = logging.Handler()
    handler.emit = lambda record: written.append(record.levelno)  # type: ignore[method-assign]
    root.addHandler(handler)
    levels = LogLevels(root)
    levels.update(
        {
            "log_info": info,
            "log_warning": warning,
            "log_error": error,
            "log_verbose_level": verbose,
        }
    )
    expected = {10: verbose > 0, 20: info, 30: warning, 40: error, 50: True}
    for level in expected:
        root.log(level, "x")
    assert written == [level for level, on in expected.items() if on]
    assert json.loads(json.dumps(levels.settings()))["log_verbose_level"] == verbose
