"""The requests that a model answers before it is ready.

Owns the reading of `model_warmup`. Must not know sessions.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from vecserve.inference import model_config_pb2
from vecserve_server.errors import InvalidArgument, ModelError
from vecserve_server.model_files.config_file import refused
from vecserve_server.model_files.datatypes import Datatype, from_proto, proto_name
from vecserve_server.model_files.onnx_config import is_plain_name
from vecserve_server.model_files.tensor_spec import TensorSpec

FOLDER = "warmup"
"""Beside the versions: the files that `input_data_file` names."""
MAX_RUNS = 10_000
MAX_SAMPLE_BYTES = 1 << 28
"""All inputs of a sample, times its rows: they are made at once, and nothing else goes on then."""
_LENGTH = struct.Struct("<I")
Sample: TypeAlias = model_config_pb2.ModelWarmup
Input: TypeAlias = model_config_pb2.ModelWarmup.Input


@dataclass(frozen=True, slots=True, kw_only=True)
class WarmUp:
    """One sample: what to feed the graph, and how often."""

    name: str
    feeds: Mapping[str, NDArray[Any]]
    count: int


def read_warm_ups(
    config: model_config_pb2.ModelConfig, folder: Path, inputs: Mapping[str, TensorSpec]
) -> Iterator[WarmUp]:
    """Yield the samples of a completed configuration, one at a time: they may be large.

    Random numbers are 0 to 1 for floats and 0 to 100 for whole numbers, so that ids stay within
    vocabularies; random strings are empty, as by Triton. Raises `ModelError` naming the sample.
    """
    for index, sample in enumerate(config.model_warmup):
        where = f'model_warmup[{index}] "{sample.name}"'
        rows = max(1, sample.batch_size)
        if rows > max(1, config.max_batch_size):
            problem = f"is {rows}; max_batch_size is {config.max_batch_size}"
            raise refused(config, f"{where} batch_size", problem)
        if sample.count > MAX_RUNS:
            raise refused(config, f"{where} count", f"is over {MAX_RUNS}")
        yield WarmUp(
            name=sample.name,
            feeds=_feeds(config, where, sample, folder / FOLDER, inputs),
            count=max(1, sample.count),
        )


def _feeds(
    config: model_config_pb2.ModelConfig,
    where: str,
    sample: Sample,
    folder: Path,
    inputs: Mapping[str, TensorSpec],
) -> dict[str, NDArray[Any]]:
    """Return the graph's feeds, all rows of them."""
    feeds: dict[str, NDArray[Any]] = {}
    left_bytes = MAX_SAMPLE_BYTES
    for name, described in sorted(sample.inputs.items()):
        here = f'{where} input "{name}"'
        if name not in inputs:
            raise refused(config, here, "is not an input of the model")
        try:
            rows = max(1, sample.batch_size) if inputs[name].batched else 1
            shape = (1, *described.dims) if inputs[name].batched else tuple(described.dims)
            array = _tensor(described, folder, left_bytes // rows).reshape(shape)
            inputs[name].check(array)
            left_bytes -= rows * _size_bytes(array)
            feeds[name] = _batch(inputs[name].to_graph(array), rows, inputs[name])
        except (InvalidArgument, ModelError) as error:
            raise refused(config, here, str(error)) from error
    missing = [spec.name for spec in inputs.values() if spec.name not in feeds]
    if needed := [name for name in missing if not inputs[name].optional]:
        raise refused(config, where, f"lacks the input {needed[0]}")
    return feeds


def _batch(array: NDArray[Any], rows: int, spec: TensorSpec) -> NDArray[Any]:
    return np.repeat(array, rows, axis=0) if spec.batched else array


def _size_bytes(array: NDArray[Any]) -> int:
    strings = sum(map(len, array.flat)) if array.dtype.hasobject else 0
    return array.nbytes + strings


def _tensor(described: Input, folder: Path, most_bytes: int) -> NDArray[Any]:
    """Return one row, of at most so many bytes."""
    datatype = from_proto(described.data_type)
    if datatype is None:
        raise ModelError(f"data_type {proto_name(described.data_type)} is not supported")
    if any(size < 1 for size in described.dims):
        raise ModelError(f"dims {list(described.dims)} must be positive")
    count = math.prod(described.dims)
    if count * datatype.numpy.itemsize > most_bytes:
        raise _too_large(f"dims {list(described.dims)}")
    source = described.WhichOneof("input_data_type")
    if source == "input_data_file":
        return _from_file(folder, described.input_data_file, datatype, count, most_bytes)
    if datatype.is_bytes:
        return _objects([b""] * count)
    if source == "random_data" and described.random_data:
        return _random(datatype, count)
    return np.zeros(count, datatype.numpy)


def _random(datatype: Datatype, count: int) -> NDArray[Any]:
    generator = np.random.default_rng(0)
    if datatype.name in ("FP16", "BF16", "FP32", "FP64"):
        return generator.random(count).astype(datatype.numpy)
    return generator.integers(0, 2 if datatype.numpy.kind == "b" else 101, count).astype(
        datatype.numpy
    )


def _too_large(what: str) -> ModelError:
    return ModelError(
        f"{what} take more than is left of the {MAX_SAMPLE_BYTES} bytes that all inputs of a "
        "sample may have, times its batch_size; make one of them smaller"
    )


def _from_file(
    folder: Path, name: str, datatype: Datatype, count: int, most_bytes: int
) -> NDArray[Any]:
    if not is_plain_name(name):
        raise ModelError(f'input_data_file "{name}" must be a name within {FOLDER}/')
    try:
        content = (folder / name).read_bytes()
    except OSError as error:
        raise ModelError(f"{FOLDER}/{name} is not readable ({error.strerror})") from error
    if len(content) > most_bytes:
        raise _too_large(f"the contents of {FOLDER}/{name}")
    elements = _objects(_split(content)) if datatype.is_bytes else None
    expected = count if datatype.is_bytes else count * datatype.numpy.itemsize
    found = len(content) if elements is None else elements.size
    if found != expected:
        unit = "strings" if datatype.is_bytes else "bytes"
        raise ModelError(f"{FOLDER}/{name} holds {found} {unit}, {expected} are expected")
    return np.frombuffer(content, datatype.numpy) if elements is None else elements


def _split(content: bytes) -> list[bytes]:
    """Return strings written each after its length, a little-endian uint32."""
    elements, at = [], 0
    while at < len(content):
        if at + _LENGTH.size > len(content):
            raise ModelError("the file ends inside a string's length")
        (size,) = _LENGTH.unpack_from(content, at)
        at += _LENGTH.size + size
        if at > len(content):
            raise ModelError("the file ends inside a string")
        elements.append(content[at - size : at])
    return elements


def _objects(values: Sequence[bytes]) -> NDArray[Any]:
    array = np.empty(len(values), object)
    array[:] = values
    return array
