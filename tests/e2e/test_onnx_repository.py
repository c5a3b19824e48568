"""A repository of ONNX models in Triton's layout, served as it is."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable
from functools import partial

import ml_dtypes
import numpy as np
import onnx
import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException

from tests.e2e.own_repository import PATIENCE_S, Repository, eventually, scrape
from tests.e2e.server_process import ServerProcess
from tests.e2e.triton_requests import MODEL
from tests.engines.tiny_models import identity
from tests.serving.tiny_onnx import add_version, config_text
from vecserve_server.model_files.datatypes import DATATYPES


def test_a_repository_of_onnx_models_serves_and_follows_its_folder(
    start: Callable[..., ServerProcess], repository: Repository
) -> None:
    """Every answer says which version gave it, and is that version's."""
    shutil.rmtree(repository.root / MODEL)
    add_version(repository.root, "add", 1)
    server = start(models_control_mode="poll", models_poll_s=0.05)
    failures: list[object] = []
    versions = [1]
    stop = threading.Event()

    def keep_asking(number: int) -> None:
        tensor = triton.InferInput("x", [1, 1], "FP32")
        tensor.set_data_from_numpy(np.array([[number]], np.float32))
        with triton.InferenceServerClient(server.target) as stock:
            while not stop.is_set():
                try:
                    result = stock.infer("add", [tensor])
                except InferenceServerException as error:
                    failures.append(error)
                    return
                version = int(result.get_response().model_version)
                versions.append(version)
                if result.as_numpy("y")[0, 0] != number + version:
                    failures.append("a wrong answer")

    def answered_by(version: int) -> bool:
        return version in versions[-8:] or bool(failures)

    threads = [threading.Thread(target=keep_asking, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for version in range(2, 8):
        add_version(repository.root, "add", version)
        eventually(partial(answered_by, version))
    stop.set()
    for thread in threads:
        thread.join(PATIENCE_S)
    assert not failures
    assert set(versions) == set(range(1, 8))


def test_the_test_hook_holds_requests_until_they_fill_a_batch(
    start: Callable[..., ServerProcess], repository: Repository
) -> None:
    shutil.rmtree(repository.root / MODEL)
    add_version(repository.root, "add", 1)
    batching = config_text("add", "dynamic_batching { }")
    (repository.root / "add" / "config.pbtxt").write_text(batching)
    server = start(delay_scheduler=6)
    answers: list[object] = []
    tensor = triton.InferInput("x", [1, 1], "FP32")
    tensor.set_data_from_numpy(np.array([[1]], np.float32))
    with triton.InferenceServerClient(server.target) as stock:
        for _ in range(5):
            stock.async_infer("add", [tensor], callback=lambda result, error: answers.append(error))
        eventually(lambda: scrape(server)["nv_inference_pending_request_count", "add"] == 5)
        assert not answers
        stock.infer("add", [tensor])
        eventually(lambda: answers == [None] * 5)
        [counted] = stock.get_inference_statistics("add").model_stats
    assert (counted.inference_count, counted.execution_count) == (6, 1)
    assert [(b.batch_size, b.compute_infer.count) for b in counted.batch_stats] == [(6, 1)]
    assert counted.inference_stats.compute_infer.count == 6


def test_bfloat16_goes_in_and_out_as_the_stock_client_writes_it(
    start: Callable[..., ServerProcess], repository: Repository
) -> None:
    shutil.rmtree(repository.root / MODEL)
    folder = repository.root / "half" / "1"
    folder.mkdir(parents=True)
    onnx.save(
        identity(["n", 2], next(each for each in DATATYPES if each.name == "BF16")),
        folder / "model.onnx",
    )
    server = start()
    values = np.array([[1.5, -2], [0.25, 3e38]], ml_dtypes.bfloat16)
    tensor = triton.InferInput("x", [2, 2], "BF16")
    tensor.set_data_from_numpy(values)
    with triton.InferenceServerClient(server.target) as stock:
        assert stock.get_model_metadata("half").inputs[0].datatype == "BF16"
        answer = stock.infer("half", [tensor]).as_numpy("y")
    assert answer.dtype == values.dtype
    assert answer.tolist() == values.tolist()
