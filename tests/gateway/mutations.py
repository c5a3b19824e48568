"""Requests that went wrong: fields changed within the schema, and bytes changed without it."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from tritonclient.grpc import service_pb2

from tests.gateway.echo_model import DATATYPES
from vecserve_server.gateway.kserve.tensors import TYPED_CONTENTS

Request: TypeAlias = service_pb2.ModelInferRequest
Mutation = Callable[[random.Random, Request], None]
COUNT = int(os.environ.get("VECSERVE_TEST_FUZZ_COUNT", "1500"))
INTEGERS = (0, 1, -1, 2, 8, 9, 255, 2**31 - 1, 2**31, -(2**31), 2**62, 2**63 - 1, -(2**63))
TEXTS = ("", "text", "input_ids", "attention_mask", "INT8", "BYTES", "\0", "ü" * 40, "x" * 5000)
PARAMETERS = (
    *("priority", "timeout", "sequence_id", "sequence_start", "triton_x", "mine"),
    *("triton_enable_empty_final_response", "classification", "shared_memory_region"),
    *("shared_memory_byte_size", "shared_memory_offset"),
)


def mutated(choose: random.Random, seeds: Sequence[Request]) -> bytes:
    """Change a good request in one to four places."""
    request = Request()
    request.CopyFrom(choose.choice(seeds))
    for _ in range(choose.randint(1, 4)):
        choose.choice(MUTATIONS)(choose, request)
    data = request.SerializeToString()
    return scrambled(choose, data) if choose.random() < 0.3 else data


def scrambled(choose: random.Random, data: bytes) -> bytes:
    """Replace, insert or remove some bytes."""
    changed = bytearray(data)
    for _ in range(choose.randint(1, 3)):
        at, size = choose.randrange(len(changed) + 1), choose.randint(0, 8)
        new = bytes(choose.randrange(256) for _ in range(choose.randint(0, 8)))
        changed[at : at + size] = new
    return bytes(changed)


def _tensor(choose: random.Random, request: Request) -> Any:
    tensors = [*request.inputs, *request.outputs]
    return choose.choice(tensors) if tensors else request.inputs.add(name="text")


def _shape(choose: random.Random, request: Request) -> None:
    if request.inputs:
        tensor = choose.choice(request.inputs)
        sizes = [choose.choice(INTEGERS) for _ in range(choose.randint(0, 10))]
        tensor.shape[:] = choose.choice([sizes, [*tensor.shape, 1], tensor.shape[1:]])


def _datatype(choose: random.Random, request: Request) -> None:
    if request.inputs:
        choose.choice(request.inputs).datatype = choose.choice((*DATATYPES, "COMPLEX", ""))


def _name(choose: random.Random, request: Request) -> None:
    _tensor(choose, request).name = choose.choice(TEXTS)


def _model(choose: random.Random, request: Request) -> None:
    setattr(
        request,
        choose.choice(["model_name", "model_version", "id"]),
        choose.choice((*TEXTS, "1", "01", "-1")),
    )


def _parameter(choose: random.Random, request: Request) -> None:
    place = choose.choice([request, _tensor(choose, request)])
    parameter = place.parameters[choose.choice(PARAMETERS)]
    number = choose.choice(INTEGERS)
    setter = choose.choice(["bool", "int64", "string", "double", "uint64", ""])
    values = {
        "bool": number > 0,
        "int64": number,
        "string": choose.choice((*TEXTS, "region")),
        "double": float(number),
        "uint64": abs(number),
    }
    if setter:
        setattr(parameter, f"{setter}_param", values[setter])


def _contents(choose: random.Random, request: Request) -> None:
    if request.inputs:
        name = choose.choice(sorted(set(TYPED_CONTENTS.values())))
        value: Any = {"bytes_contents": b"a", "fp32_contents": 0.5, "fp64_contents": 0.5}.get(name)
        count = choose.randint(0, 5)
        values = [choose.randint(0, 300) if value is None else value] * count
        getattr(choose.choice(request.inputs).contents, name).extend(values)


def _raw(choose: random.Random, request: Request) -> None:
    contents = request.raw_input_contents
    kind = choose.randint(0, 3)
    if kind == 0 or not contents:
        contents.append(bytes(choose.randrange(256) for _ in range(choose.randint(0, 20))))
    elif kind == 1:
        del contents[choose.randrange(len(contents))]
    else:
        at = choose.randrange(len(contents))
        contents[at] = scrambled(choose, contents[at])


def _repeat(choose: random.Random, request: Request) -> None:
    field = choose.choice([request.inputs, request.outputs])
    if field:
        field.add().CopyFrom(choose.choice(field))


def _drop(choose: random.Random, request: Request) -> None:
    field = choose.choice([request.inputs, request.outputs])
    if field:
        del field[choose.randrange(len(field))]


def _region(choose: random.Random, request: Request) -> None:
    tensor = _tensor(choose, request)
    tensor.parameters["shared_memory_region"].string_param = "region"
    sizes = (0, 1, 4, 16, 4096, 4097, *INTEGERS)
    tensor.parameters["shared_memory_byte_size"].int64_param = choose.choice(sizes)
    tensor.parameters["shared_memory_offset"].int64_param = choose.choice(sizes)


MUTATIONS: tuple[Mutation, ...] = (
    *(_shape, _datatype, _name, _model, _parameter, _contents, _raw, _repeat, _drop, _region),
)
