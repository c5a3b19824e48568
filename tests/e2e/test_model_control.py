"""Models come and go in a running server, and nobody's request fails."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import pytest
import tritonclient.grpc as triton
from google.protobuf import json_format, text_format
from tritonclient.grpc import model_config_pb2
from tritonclient.utils import InferenceServerException

from tests.e2e.own_repository import PATIENCE_S, Repository, eventually, scrape
from tests.e2e.server_process import ServerProcess
from tests.e2e.triton_requests import MODEL, text_input
from vecserve_client import Client, FailedPrecondition, Record

TEXTS = ["a red car", "Grüße aus Köln", "def f(x): return x"]


def states(stock: triton.InferenceServerClient) -> dict[tuple[str, str], str]:
    index = stock.get_model_repository_index()
    return {(model.name, model.version): model.state for model in index.models}


class Traffic:
    """Clients that never stop asking; every answer is checked, every failure is kept."""

    def __init__(self, target: str, expected: np.ndarray, version: str = "") -> None:
        self.failures: list[object] = []
        self.versions: list[str] = []
        self._target, self._expected, self._version = target, expected, version
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._ask) for _ in range(3)]

    def _ask(self) -> None:
        with (
            triton.InferenceServerClient(self._target) as stock,
            Client(target=self._target) as ours,
        ):
            while not self._stop.is_set():
                try:
                    result = stock.infer(MODEL, [text_input(TEXTS)], model_version=self._version)
                    vectors = (result.as_numpy("embedding"), ours.embed(TEXTS).vectors)
                except Exception as error:  # noqa: BLE001 - any failure fails the test
                    self.failures.append(error)
                    continue
                self.versions.append(result.get_response().model_version)
                if any(np.abs(found - self._expected).max() > 1e-5 for found in vectors):
                    self.failures.append("a wrong answer")

    def wait_for_answers(self, count: int) -> None:
        """Wait for so many more."""
        wanted = len(self.versions) + count
        eventually(lambda: len(self.versions) >= wanted)

    @contextmanager
    def running(self) -> Iterator[Traffic]:
        for thread in self._threads:
            thread.start()
        try:
            eventually(lambda: bool(self.versions or self.failures))
            yield self
        finally:
            self._stop.set()
            for thread in self._threads:
                thread.join(PATIENCE_S)


def traffic(server: ServerProcess) -> Traffic:
    with Client(target=server.target) as client:
        return Traffic(server.target, client.embed(TEXTS).vectors)


def test_a_new_version_takes_over_and_back_without_a_failed_request(
    start: Callable[..., ServerProcess], repository: Repository
) -> None:
    server = start(models_control_mode="poll", models_poll_s=0.1)
    with triton.InferenceServerClient(server.target) as stock, traffic(server).running() as seen:
        repository.add("2")
        eventually(lambda: seen.versions[-1] == "2")
        eventually(lambda: states(stock)[MODEL, "1"] == "UNAVAILABLE")
        repository.remove("2")
        eventually(lambda: seen.versions[-1] == "1")
        eventually(lambda: (MODEL, "2") not in states(stock))
    assert not seen.failures
    assert set(seen.versions) == {"1", "2"}


def test_a_reload_of_the_version_that_serves_fails_no_request(
    start: Callable[..., ServerProcess], repository: Repository
) -> None:
    server = start(models_control_mode="explicit", models_load=MODEL)
    with triton.InferenceServerClient(server.target) as stock, traffic(server).running() as seen:
        for comment in ("# 1\n", "# 2\n", "# 3\n"):
            with repository.config().open("a") as file:
                file.write(comment)
            stock.load_model(MODEL)
            seen.wait_for_answers(5)
    assert not seen.failures
    assert server.log.count("model_loaded") == 4
    eventually(lambda: server.log.count("model_closed") == 3)


def test_what_cannot_be_loaded_leaves_what_serves_alone(
    start: Callable[..., ServerProcess], repository: Repository
) -> None:
    server = start(models_control_mode="explicit", models_load=MODEL)
    (repository.root / MODEL / "2").mkdir()
    (repository.root / MODEL / "2" / "card.json").write_text("{}")
    with triton.InferenceServerClient(server.target) as stock, traffic(server).running() as seen:
        with pytest.raises(InferenceServerException, match="not a model card"):
            stock.load_model(MODEL)
        index = stock.get_model_repository_index().models
        assert [(m.version, m.state) for m in index] == [("1", "READY"), ("2", "UNAVAILABLE")]
        assert "not a model card" in index[1].reason
        assert stock.is_model_ready(MODEL)
        assert not stock.is_model_ready(MODEL, "2")
    assert not seen.failures


def test_a_damaged_model_does_not_keep_the_others_from_serving(
    start: Callable[..., ServerProcess], repository: Repository
) -> None:
    (repository.root / "broken" / "1").mkdir(parents=True)
    (repository.root / "broken" / "config.pbtxt").write_text("max_batch_size: x")
    server = start()
    with triton.InferenceServerClient(server.target) as stock:
        assert states(stock) == {(MODEL, "1"): "READY", ("broken", ""): "UNAVAILABLE"}
        assert stock.infer(MODEL, [text_input(TEXTS)]).as_numpy("embedding").shape == (3, 384)
        with pytest.raises(InferenceServerException, match="control_mode"):
            stock.load_model("broken")


def test_unloading_answers_what_was_accepted_and_refuses_the_rest(
    start: Callable[..., ServerProcess],
) -> None:
    server = start(models_control_mode="explicit", models_load=MODEL)
    many = [f"{number} " * 40 for number in range(16)]
    with triton.InferenceServerClient(server.target) as stock:
        answers: list[object] = []
        asked = 8
        for _ in range(asked):
            stock.async_infer(
                MODEL, [text_input(many)], callback=lambda result, error: answers.append(error)
            )
        eventually(lambda: len(answers) > 0)
        stock.unload_model(MODEL)
        assert states(stock) == {(MODEL, "1"): "UNAVAILABLE"}
        with pytest.raises(InferenceServerException, match="has no available versions"):
            stock.infer(MODEL, [text_input(TEXTS)])
        eventually(lambda: len(answers) == asked)
        refused = [error for error in answers if error is not None]
        # Those that came in before it are answered; some may have been on their way.
        assert [str(e) for e in refused if "no version that is ready" not in str(e)] == []
        stock.load_model(MODEL)
        assert stock.is_model_ready(MODEL)
        assert stock.infer(MODEL, [text_input(TEXTS)]).as_numpy("embedding").shape == (3, 384)


def test_nothing_is_loaded_in_mode_explicit_until_somebody_asks(
    start: Callable[..., ServerProcess],
) -> None:
    server = start(models_control_mode="explicit")
    with triton.InferenceServerClient(server.target) as stock:
        assert states(stock) == {(MODEL, ""): ""}
        assert not stock.is_model_ready(MODEL)
        stock.load_model(MODEL)
        assert states(stock) == {(MODEL, "1"): "READY"}


def test_a_model_can_come_with_the_request(
    start: Callable[..., ServerProcess], repository: Repository
) -> None:
    server = start(models_control_mode="explicit", server_max_message_bytes=128 << 20)
    proto = text_format.Parse(repository.config().read_text(), model_config_pb2.ModelConfig())
    proto.name = "sent"
    config = json_format.MessageToJson(proto, preserving_proto_field_name=True)
    folder = repository.root / MODEL / "1"
    card = json.loads((folder / "card.json").read_text())
    files = {
        f"file:7/{name}": (folder / name).read_bytes()
        for name in ("card.json", *card["files"])
        if name in ("card.json", "tokenizer.json", "model.int8.onnx")
    }
    with triton.InferenceServerClient(server.target) as stock:
        with pytest.raises(InferenceServerException, match="config"):
            stock.load_model("sent", files=files)
        stock.load_model("sent", config=config, files=files)
        assert states(stock)["sent", "7"] == "READY"
        assert stock.infer("sent", [text_input(TEXTS)]).as_numpy("embedding").shape == (3, 384)
        stock.unload_model("sent")
        assert states(stock) == {(MODEL, ""): ""}


def test_all_versions_serve_beside_each_other_where_the_policy_says_so(
    start: Callable[..., ServerProcess], repository: Repository
) -> None:
    repository.add("3")
    with repository.config().open("a") as file:
        file.write("version_policy { all { } }\n")
    server = start()
    with triton.InferenceServerClient(server.target) as stock:
        assert states(stock) == {(MODEL, "1"): "READY", (MODEL, "3"): "READY"}
        for asked, answered in (("", "3"), ("1", "1"), ("3", "3")):
            result = stock.infer(MODEL, [text_input(TEXTS)], model_version=asked)
            assert result.get_response().model_version == answered
        metadata = stock.get_model_metadata(MODEL)
        assert list(metadata.versions) == ["1", "3"]


def test_a_swap_never_mixes_vectors_of_other_weights_into_a_collection(
    start: Callable[..., ServerProcess], repository: Repository
) -> None:
    server = start(models_control_mode="poll", models_poll_s=0.1, reindex_on_new_version="ignore")
    with Client(target=server.target) as client:
        client.create_collection("docs")
        client.upsert("docs", [Record(id="a", text="a red car")])
        text = repository.config().read_text()
        assert '"int8"' in text
        repository.config().write_text(text.replace('"int8"', '"fp32"'))
        eventually(lambda: server.log.count("model_loaded") == 2)
        with pytest.raises(FailedPrecondition, match="re-index it, or serve the old weights"):
            client.search("docs", "a red car")
        repository.config().write_text(text)
        eventually(lambda: server.log.count("model_loaded") == 3)
        assert client.search("docs", "a red car").hits[0].id == "a"


def test_the_cache_answers_the_second_time_and_is_counted(
    start: Callable[..., ServerProcess], repository: Repository
) -> None:
    with repository.config().open("a") as file:
        file.write("response_cache { enable: true }\n")
    server = start(models_response_cache_bytes=1 << 20)
    with triton.InferenceServerClient(server.target) as stock:
        first = stock.infer(MODEL, [text_input(TEXTS)]).as_numpy("embedding")
        second = stock.infer(MODEL, [text_input(TEXTS)]).as_numpy("embedding")
        assert (first == second).all()
        [counted] = stock.get_inference_statistics(MODEL).model_stats
    stats = counted.inference_stats
    assert (stats.cache_hit.count, stats.cache_miss.count) == (1, 1)
    assert (stats.success.count, stats.queue.count, stats.compute_infer.count) == (2, 2, 1)
    assert counted.inference_count == len(TEXTS)
    assert scrape(server)["nv_cache_num_hits_per_model", MODEL] == 1


def test_statistics_and_metrics_say_the_same(
    start: Callable[..., ServerProcess],
) -> None:
    server = start()
    with triton.InferenceServerClient(server.target) as stock:
        for _ in range(5):
            stock.infer(MODEL, [text_input(TEXTS)])
        with pytest.raises(InferenceServerException):
            stock.infer(MODEL, [text_input(["x" * (1 << 21)])])
        [counted] = stock.get_inference_statistics(MODEL).model_stats
        assert [s.version for s in stock.get_inference_statistics().model_stats] == ["1"]
    stats, seen = counted.inference_stats, scrape(server)
    assert stats.success.count == seen["nv_inference_request_success", MODEL] == 5
    assert stats.fail.count == seen["nv_inference_request_failure", MODEL] == 1
    assert counted.inference_count == seen["nv_inference_count", MODEL] == 15
    assert counted.execution_count == seen["nv_inference_exec_count", MODEL] > 0
    assert stats.compute_input.count == stats.compute_infer.count == stats.compute_output.count == 5
    assert stats.compute_infer.ns > 0
    assert stats.success.ns >= stats.compute_infer.ns + stats.queue.ns
