"""The inference protocol's messages: the contract of its clients, side by side with theirs."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from typing import Any

import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from tritonclient import grpc as triton

from vecserve.inference import model_config_pb2, service_pb2

OURS = "from vecserve.inference import service_pb2_grpc as ours"
THEIRS = "from tritonclient.grpc import service_pb2_grpc as theirs"
BELOW_THE_GATEWAY = (
    "services", "serving", "collections", "importing", "scheduling", "encoding", "engines",
    "model_files", "index", "storage", "observability", "settings", "domain",
)  # fmt: skip


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (model_config_pb2, triton.model_config_pb2),
        (service_pb2, triton.service_pb2),
    ],
    ids=["model_config", "service"],
)
def test_names_numbers_and_methods_are_those_of_stock_clients(ours: Any, theirs: Any) -> None:
    assert contract(ours) == contract(theirs)


@pytest.mark.parametrize("imports", [(OURS, THEIRS), (THEIRS, OURS)], ids=["ours", "theirs"])
def test_a_process_may_import_either_first(imports: tuple[str, str]) -> None:
    run(
        *imports,
        """
        from tritonclient.grpc import service_pb2 as their_messages
        from vecserve.inference import service_pb2 as messages

        request = messages.ModelInferRequest(model_name="model", raw_input_contents=[b"1"])
        request.inputs.add(name="x", shape=[1]).parameters["size"].int64_param = 2
        theirs = their_messages.ModelInferRequest.FromString(request.SerializeToString())
        assert theirs.inputs[0].parameters["size"].int64_param == 2
        assert messages.ModelInferRequest.FromString(theirs.SerializeToString()) == request
        """,
    )


def test_nothing_below_the_gateway_imports_grpc() -> None:
    run(
        "import importlib, pkgutil, sys, vecserve_server",
        f"""
        for room in {BELOW_THE_GATEWAY}:
            package = importlib.import_module(f"vecserve_server.{{room}}")
            prefix = f"{{package.__name__}}."
            for module in pkgutil.walk_packages(package.__path__, prefix):
                importlib.import_module(module.name)
        known = {{"grpc", "vecserve.v1", "vecserve.inference.service_pb2"}} & set(sys.modules)
        assert not known, known
        """,
    )


def contract(module: Any) -> FileDescriptorProto:
    """All of a file but where it lies."""
    file = FileDescriptorProto()
    module.DESCRIPTOR.CopyToProto(file)
    for place in ("name", "dependency", "options"):
        file.ClearField(place)
    for method in (method for service in file.service for method in service.method):
        method.ClearField("options")
    return file


def run(*pieces: str) -> None:
    code = "\n".join(textwrap.dedent(piece) for piece in pieces)
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True)
