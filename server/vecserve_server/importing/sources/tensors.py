"""Read the weights of a checkpoint, in one safetensors file or in several.

Owns the files' formats and the checks on them. Must not know what a tensor is for.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import ml_dtypes  # noqa: F401 - lets NumPy, and so safetensors, read bfloat16
import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from vecserve_server.errors import ModelError
from vecserve_server.importing.sources.json_file import existing, read_object

WEIGHTS_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"

_FLOATS = ("BF16", "F16", "F32", "F64")
_INTEGERS = ("BOOL", "I8", "I16", "I32", "I64", "U8", "U16", "U32", "U64")
_F32_BYTES = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightFiles:
    """The float tensors of a checkpoint, known by their headers and not yet read."""

    files: tuple[Path, ...]
    shape_by_name: Mapping[str, tuple[int, ...]]

    @property
    def size_bytes(self) -> int:
        """Return what the tensors take as float32."""
        return sum(math.prod(shape) for shape in self.shape_by_name.values()) * _F32_BYTES

    def read(self) -> dict[str, NDArray[np.float32]]:
        """Return every tensor as float32; raises `ModelError` for a value that is not finite."""
        tensors: dict[str, NDArray[np.float32]] = {}
        for path in self.files:
            with _opened(path) as file:
                for name in _float_names(path, file):
                    tensor = file.get_tensor(name).astype(np.float32, copy=False)
                    if not np.isfinite(tensor).all():
                        raise ModelError(
                            f"{path.name}: tensor {name} holds a value that is not finite"
                        )
                    tensors[name] = tensor
        return tensors


def weight_files(folder: Path) -> WeightFiles:
    """Read the headers in a folder; raises `ModelError` for a file that is missing or damaged."""
    index = folder / INDEX_FILE
    single = folder / WEIGHTS_FILE
    if single.is_file() or not index.is_file():
        paths: tuple[Path, ...] = (_present(single),)
    else:
        paths = _shards(index)
    shapes: dict[str, tuple[int, ...]] = {}
    for path in paths:
        with _opened(path) as file:
            for name in _float_names(path, file):
                shapes[name] = tuple(file.get_slice(name).get_shape())
    return WeightFiles(files=paths, shape_by_name=MappingProxyType(shapes))


def has_weights(folder: Path) -> bool:
    """Return whether a folder has weights that can be read."""
    return any((folder / name).is_file() for name in (WEIGHTS_FILE, INDEX_FILE))


def _present(path: Path) -> Path:
    pickled = sorted(path.parent.glob("pytorch_model*.bin"))
    if pickled and not path.is_file():
        raise ModelError(
            f"{path.name} is missing from {path.parent}: {pickled[0].name} is a pickle, which can "
            "run code and is not read; save the model with safe_serialization=True"
        )
    return existing(path)


def _shards(index: Path) -> tuple[Path, ...]:
    weight_map = read_object(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise ModelError(f"{index.name}: weight_map is missing or empty")
    names = sorted({str(name) for name in weight_map.values()})
    for name in names:
        if Path(name).name != name:
            raise ModelError(f"{index.name}: {name!r} is not the name of a file beside it")
    return tuple(existing(index.parent / name) for name in names)


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    try:
        with safe_open(path, framework="numpy") as file:
            yield file
    except SafetensorError as error:
        raise ModelError(f"{path.name}: not a readable safetensors file ({error})") from error


def _float_names(path: Path, file: Any) -> list[str]:
    """Return the names of the float tensors; others, such as position ids, are not weights."""
    names = list(file.keys())
    kinds = {name: file.get_slice(name).get_dtype() for name in names}
    for name, kind in kinds.items():
        if kind not in _FLOATS + _INTEGERS:
            known = ", ".join(_FLOATS)
            raise ModelError(f"{path.name}: tensor {name} is {kind} (supported: {known})")
    return [name for name, kind in kinds.items() if kind in _FLOATS]
