"""Every way in which stock tritonclient calls: callbacks, streams, options, refusals."""

from __future__ import annotations

import queue
from collections.abc import AsyncIterator, Iterator
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as triton
import tritonclient.grpc.aio as triton_aio
from tritonclient.utils import InferenceServerException

from tests.e2e.server_process import ServerProcess
from tests.e2e.triton_requests import DIM, MODEL, TEXTS, text_input
from vecserve_client import Client

PATIENCE_S = 60.0
Answers = queue.Queue[tuple[Any, Any]]


@pytest.fixture(scope="module")
def expected(server: ServerProcess) -> Any:
    """The vectors of TEXTS, by our own client."""
    with Client(target=server.target) as client:
        return client.embed(TEXTS).vectors


@pytest.fixture
def stock(server: ServerProcess) -> Iterator[triton.InferenceServerClient]:
    with triton.InferenceServerClient(server.target) as made:
        yield made


@pytest.fixture
def answers() -> Answers:
    return queue.Queue()


def test_asynchronous_calls_answer_their_callbacks(
    stock: triton.InferenceServerClient, expected: Any, answers: Answers
) -> None:
    for index, text in enumerate(TEXTS):
        stock.async_infer(
            MODEL,
            [text_input([text])],
            lambda result, error: answers.put((result, error)),
            request_id=str(index),
        )
    for _ in TEXTS:
        result, error = answers.get(timeout=PATIENCE_S)
        assert error is None
        index = int(result.get_response().id)
        assert np.abs(result.as_numpy("embedding")[0] - expected[index]).max() <= 1e-3


def test_a_call_can_be_cancelled(stock: triton.InferenceServerClient, answers: Answers) -> None:
    call = stock.async_infer(
        MODEL,
        [text_input(["word " * 400] * 64)],
        lambda result, error: answers.put((result, error)),
    )
    call.cancel()
    result, error = answers.get(timeout=PATIENCE_S)
    assert result is None
    assert error.status() == "StatusCode.CANCELLED"
    assert stock.is_server_ready()


def test_a_stream_answers_in_order_and_goes_on_after_a_failure(
    stock: triton.InferenceServerClient, expected: Any, answers: Answers
) -> None:
    stock.start_stream(lambda result, error: answers.put((result, error)))
    for index, text in enumerate(TEXTS):
        stock.async_stream_infer(MODEL, [text_input([text])], request_id=str(index))
    stock.async_stream_infer("none", [text_input(["x"])])
    stock.async_stream_infer(
        MODEL, [text_input(["x"])], request_id="last", enable_empty_final_response=True
    )
    got = [answers.get(timeout=PATIENCE_S) for _ in range(len(TEXTS) + 2)]
    stock.stop_stream()
    for index, (result, error) in enumerate(got[: len(TEXTS)]):
        assert error is None
        assert result.get_response().id == str(index)
        assert np.abs(result.as_numpy("embedding")[0] - expected[index]).max() <= 1e-3
    assert "'none'" in str(got[-2][1])
    response = got[-1][0].get_response()
    assert response.id == "last"
    assert response.parameters["triton_final_response"].bool_param


def test_a_stream_ends_with_a_status_where_the_client_asks_for_it(
    stock: triton.InferenceServerClient, answers: Answers
) -> None:
    stock.start_stream(
        lambda result, error: answers.put((result, error)), headers={"triton_grpc_error": "true"}
    )
    stock.async_stream_infer("none", [text_input(["x"])])
    _, error = answers.get(timeout=PATIENCE_S)
    stock.stop_stream(cancel_requests=True)
    assert error.status() == "StatusCode.NOT_FOUND"


async def test_asyncio_streams_answer_in_order(server: ServerProcess, expected: Any) -> None:
    async def requests() -> AsyncIterator[dict[str, Any]]:
        for index, text in enumerate(TEXTS):
            yield {
                "model_name": MODEL,
                "inputs": [text_input([text])],
                "request_id": str(index),
                "enable_empty_final_response": True,
            }

    async with triton_aio.InferenceServerClient(server.target) as stock:
        got = [pair async for pair in stock.stream_infer(requests())]
    assert [result.get_response().id for result, error in got] == [str(n) for n in range(6)]
    for index, (result, error) in enumerate(got):
        assert error is None
        assert np.abs(result.as_numpy("embedding")[0] - expected[index]).max() <= 1e-3


@pytest.mark.parametrize("algorithm", ["deflate", "gzip"])
def test_messages_may_be_compressed(
    stock: triton.InferenceServerClient, expected: Any, algorithm: str
) -> None:
    result = stock.infer(MODEL, [text_input(TEXTS)], compression_algorithm=algorithm)
    assert np.abs(result.as_numpy("embedding") - expected).max() <= 1e-3


def test_idle_channels_may_be_kept_alive(server: ServerProcess) -> None:
    options = triton.KeepAliveOptions(
        keepalive_time_ms=10_000,
        keepalive_timeout_ms=1000,
        keepalive_permit_without_calls=True,
        http2_max_pings_without_data=0,
    )
    with triton.InferenceServerClient(server.target, keepalive_options=options) as stock:
        assert stock.infer(MODEL, [text_input(["x"])]).as_numpy("embedding").shape == (1, DIM)


def test_parameters_headers_and_timeouts_are_taken(stock: triton.InferenceServerClient) -> None:
    result = stock.infer(
        MODEL,
        [text_input(["x"])],
        request_id="r/1",
        priority=1,
        timeout=60_000_000,
        headers={"x-team": "search"},
        parameters={"team": "search", "tries": 3, "ratio": 0.5, "dry": True},
        client_timeout=PATIENCE_S,
    )
    assert result.get_response().id == "r/1"
    assert list(result.get_output("embedding").shape) == [1, DIM]


def test_classes_are_ranked_by_score(stock: triton.InferenceServerClient, expected: Any) -> None:
    wanted = [triton.InferRequestedOutput("embedding", class_count=3)]
    best = stock.infer(MODEL, [text_input(TEXTS)], outputs=wanted).as_numpy("embedding")
    assert best.shape == (len(TEXTS), 3)
    for row, vector in zip(best, expected, strict=True):
        scores, indices = zip(*(entry.decode().split(":") for entry in row), strict=True)
        np.testing.assert_allclose(
            [float(s) for s in scores], vector[list(map(int, indices))], 0, 1e-3
        )
        assert list(map(float, scores)) == sorted(map(float, scores), reverse=True)


@pytest.mark.parametrize(
    ("options", "status", "words"),
    [
        ({"timeout": 1}, "UNAVAILABLE", "Request timeout expired"),
        ({"sequence_id": 7}, "UNIMPLEMENTED", "sequences are not offered"),
        ({"model_version": "9"}, "NOT_FOUND", "version 9"),
        ({"model_version": "x"}, "INVALID_ARGUMENT", "'x' is not a decimal number"),
        (
            {"outputs": [triton.InferRequestedOutput("scores")]},
            "INVALID_ARGUMENT",
            "output 'scores': is unknown; the model has 'embedding'",
        ),
    ],
)
def test_what_cannot_be_done_is_refused(
    stock: triton.InferenceServerClient, options: dict[str, Any], status: str, words: str
) -> None:
    with pytest.raises(InferenceServerException, match=words) as refusal:
        stock.infer(MODEL, [text_input(["word " * 200] * 64)], **options)
    assert refusal.value.status() == f"StatusCode.{status}"


def test_the_server_says_what_it_offers(stock: triton.InferenceServerClient) -> None:
    extensions = stock.get_server_metadata().extensions
    assert {"statistics", "system_shared_memory", "classification", "trace", "logging"} <= set(
        extensions
    )
    index = stock.get_model_repository_index().models
    assert [(model.name, model.version, model.state) for model in index] == [(MODEL, "1", "READY")]
    statistics = stock.get_inference_statistics(MODEL).model_stats
    assert [(entry.name, entry.version) for entry in statistics] == [(MODEL, "1")]
    with pytest.raises(InferenceServerException, match="'none'"):
        stock.get_inference_statistics("none")


def test_settings_of_traces_and_logs_are_taken(
    stock: triton.InferenceServerClient, server: ServerProcess
) -> None:
    stock.update_trace_settings(MODEL, {"trace_level": ["TIMESTAMPS"], "trace_rate": "1"})
    stock.infer(MODEL, [text_input(["x"])], request_id="traced-1")
    stock.update_trace_settings(MODEL, {"trace_level": None, "trace_rate": None})
    stock.infer(MODEL, [text_input(["x"])], request_id="traced-2")
    assert "request_id=traced-1" in server.log
    assert "request_id=traced-2" not in server.log
    after = stock.update_log_settings({"log_verbose_level": 1}, as_json=True)["settings"]
    assert after["log_verbose_level"]["uint32_param"] == 1
    stock.update_log_settings({"log_verbose_level": 0})
