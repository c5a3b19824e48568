"""A server on OpenVINO, as the default configuration may choose: ready, specialised, stopped."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import DEFAULT_MODEL
from tests.e2e.server_process import start_server
from vecserve_client import Client
from vecserve_server.engines.openvino.runtime import openvino_is_installed

pytestmark = pytest.mark.skipif(
    not openvino_is_installed(), reason="OpenVINO is not installed (it is for x86-64 only)"
)

TEXTS = ["short", "a somewhat longer text about nothing in particular", "word " * 150]
TIMEOUT_S = 60.0
ONNXRUNTIME = 'parameters { key: "engine" value { string_value: "onnxruntime" } }'
OPENVINO = (
    'optimization { execution_accelerators { cpu_execution_accelerator [ { name: "openvino" } ] } }'
)


@pytest.fixture(scope="module")
def openvino_repository(tmp_path_factory: pytest.TempPathFactory, serving_repository: Path) -> Path:
    root = tmp_path_factory.mktemp("openvino")
    (root / DEFAULT_MODEL).mkdir()
    config = (serving_repository / DEFAULT_MODEL / "config.pbtxt").read_text("utf-8")
    config = config.replace(ONNXRUNTIME, OPENVINO).replace('"16"', '"4"')
    (root / DEFAULT_MODEL / "config.pbtxt").write_text(config, encoding="utf-8")
    version = (serving_repository / DEFAULT_MODEL / "1").resolve()
    (root / DEFAULT_MODEL / "1").symlink_to(version)
    return root


def test_vectors_stay_the_same_when_the_engine_gets_specialised(
    openvino_repository: Path, tmp_path: Path
) -> None:
    server = start_server(tmp_path, repository=openvino_repository)
    try:
        with Client(target=server.target, deadline_s=TIMEOUT_S) as client:
            before = client.embed(TEXTS).vectors
            deadline_s = time.monotonic() + TIMEOUT_S
            while "specialised shapes=4" not in server.log:
                assert time.monotonic() < deadline_s, server.log
                client.embed(TEXTS)
            with ThreadPoolExecutor(8) as pool:
                found = list(pool.map(lambda _: client.embed(TEXTS).vectors, range(40)))
        for vectors in [before, *found]:
            np.testing.assert_array_equal(vectors, found[0])
        assert server.stop() == 0, server.log
        assert "Traceback" not in server.log, server.log
    finally:
        server.kill()


def test_a_server_stops_at_once_while_its_engine_is_being_specialised(
    openvino_repository: Path, tmp_path: Path
) -> None:
    config = openvino_repository / DEFAULT_MODEL / "config.pbtxt"
    config.write_text(config.read_text("utf-8").replace('"4"', '"16"'), encoding="utf-8")
    server = start_server(tmp_path, repository=openvino_repository)
    try:
        assert server.stop() == 0, server.log
        assert "specialised" not in server.log, "it stopped before the compiler was done"
    finally:
        server.kill()
