"""The contract explains itself: nothing in it is left without a comment."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path

import pytest
from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    EnumDescriptorProto,
    FileDescriptorProto,
    FileDescriptorSet,
)

pytest.importorskip("grpc_tools", reason="grpcio-tools, which parses .proto files, is missing")

ROOT = Path(__file__).parents[1] / "protos"
PROTOS = sorted(ROOT.glob("vecserve/v1/*.proto"))

# What stands where in a descriptor, as google/protobuf/descriptor.proto numbers it.
FILE_MESSAGE, FILE_ENUM, FILE_SERVICE = 4, 5, 6
MESSAGE_FIELD, MESSAGE_NESTED, MESSAGE_ENUM, MESSAGE_ONEOF = 2, 3, 4, 8
ENUM_VALUE = SERVICE_RPC = 2

Location = tuple[int, ...]
Named = Iterator[tuple[str, Location]]


@pytest.fixture(scope="module")
def contract(tmp_path_factory: pytest.TempPathFactory) -> dict[str, FileDescriptorProto]:
    """The committed .proto files with their comments, by name."""
    out = tmp_path_factory.mktemp("protos") / "contract.bin"
    command = [
        *(sys.executable, "-m", "grpc_tools.protoc", "--include_source_info"),
        *(f"-I{ROOT}", f"-I{files('grpc_tools') / '_proto'}", f"--descriptor_set_out={out}"),
    ]
    subprocess.run([*command, *map(str, PROTOS)], check=True)
    parsed = FileDescriptorSet.FromString(out.read_bytes())
    return {Path(file.name).name: file for file in parsed.file}


@pytest.mark.parametrize("name", [path.name for path in PROTOS])
def test_everything_has_a_comment(name: str, contract: dict[str, FileDescriptorProto]) -> None:
    file = contract[name]
    commented = {
        tuple(location.path)
        for location in file.source_code_info.location
        if location.leading_comments.strip()
    }
    assert [full_name for full_name, path in named(file) if path not in commented] == []


@pytest.mark.parametrize("name", [path.name for path in PROTOS])
def test_stubs_of_other_languages_have_packages(
    name: str, contract: dict[str, FileDescriptorProto]
) -> None:
    options = contract[name].options
    assert options.go_package == ("github.com/vecserve/vecserve/gen/go/vecserve/v1;vecservev1")
    assert (options.java_package, options.java_multiple_files) == ("io.vecserve.v1", True)


def test_a_request_that_has_an_id_gets_it_back_with_timings(
    contract: dict[str, FileDescriptorProto],
) -> None:
    fields = {
        f".{file.package}.{message.name}": {field.name for field in message.field}
        for file in contract.values()
        for message in file.message_type
    }
    for rpc in (rpc for file in contract.values() for srv in file.service for rpc in srv.method):
        asked, answered = fields[rpc.input_type], fields[rpc.output_type]
        expected = {"request_id", "timings"} if "request_id" in asked else set()
        assert answered & {"request_id", "timings"} == expected, rpc.name


def named(file: FileDescriptorProto) -> Named:
    """Everything that a comment belongs to, with its place in the file."""
    for at, message in enumerate(file.message_type):
        yield from named_in_message(message, message.name, (FILE_MESSAGE, at))
    for at, enum in enumerate(file.enum_type):
        yield from named_in_enum(enum, enum.name, (FILE_ENUM, at))
    for at, service in enumerate(file.service):
        yield service.name, (FILE_SERVICE, at)
        for position, rpc in enumerate(service.method):
            yield f"{service.name}.{rpc.name}", (FILE_SERVICE, at, SERVICE_RPC, position)


def named_in_message(message: DescriptorProto, name: str, path: Location) -> Named:
    yield name, path
    for at, field in enumerate(message.field):
        yield f"{name}.{field.name}", (*path, MESSAGE_FIELD, at)
    # `optional` makes a oneof that does not stand in the file.
    implied = {field.oneof_index for field in message.field if field.proto3_optional}
    for at, oneof in enumerate(message.oneof_decl):
        if at not in implied:
            yield f"{name}.{oneof.name}", (*path, MESSAGE_ONEOF, at)
    for at, nested in enumerate(message.nested_type):
        yield from named_in_message(nested, f"{name}.{nested.name}", (*path, MESSAGE_NESTED, at))
    for at, enum in enumerate(message.enum_type):
        yield from named_in_enum(enum, f"{name}.{enum.name}", (*path, MESSAGE_ENUM, at))


def named_in_enum(enum: EnumDescriptorProto, name: str, path: Location) -> Named:
    yield name, path
    for at, value in enumerate(enum.value):
        yield f"{name}.{value.name}", (*path, ENUM_VALUE, at)
