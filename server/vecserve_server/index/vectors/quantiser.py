"""Float vectors to int8 codes.

Owns the codes' definitions, which have versioned names because stored indexes depend on them. Must
not know indexes; reads and writes its own file.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal, TypeAlias, cast
from zipfile import BadZipFile

import numpy as np
from numpy.lib.npyio import NpzFile
from numpy.typing import NDArray

from vecserve_server.domain.vectors import Codes, Vectors
from vecserve_server.errors import CorruptData

Metric = Literal["cos", "l2sq"]

_LARGEST_CODE = np.float32(127)
# Keeps the scale finite; a vector below it is zero for all purposes.
_SMALLEST_PEAK = np.float32(1e-30)
_QUANTILE = 0.9999


@dataclass(frozen=True, slots=True)
class MaxAbsQuantiser:
    """Scale each vector by its own largest component: no calibration, order of cosines kept."""

    name: ClassVar[str] = "max-abs-int8-v1"
    metric: ClassVar[Metric] = "cos"

    def encode(self, vectors: Vectors) -> Codes:
        """Encode finite float32 [N, D] as int8 [N, D] in [-127, 127]; a zero vector gives zeros."""
        peaks = np.maximum(vectors.max(axis=1, initial=0.0), -vectors.min(axis=1, initial=0.0))
        scales = _LARGEST_CODE / np.maximum(peaks, _SMALLEST_PEAK)
        scaled = vectors * scales[:, np.newaxis]
        codes: Codes = np.rint(scaled, out=scaled).astype(np.int8)
        return codes


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class RotatedQuantiser:
    """Centre the unit vector, rotate it at random, scale everything alike, clip.

    The rotation spreads outlying dimensions, so that one scale suits all; one scale for all makes
    squared distance, the cheapest metric, keep the order of cosines.
    """

    name: ClassVar[str] = "rotated-int8-v1"
    metric: ClassVar[Metric] = "l2sq"

    mean: NDArray[np.float32]
    """float32 [D]"""
    rotation: NDArray[np.float32]
    """Orthogonal, float32 [D, D]."""
    scale: np.float32
    """Codes per unit of length."""

    @classmethod
    def fit(cls, sample: Vectors, *, seed: int) -> RotatedQuantiser:
        """Calibrate with a sample, float32 [N, D]; the same sample and seed give the same codes."""
        unit = _unit(sample)
        mean = unit.mean(axis=0, dtype=np.float64).astype(np.float32)
        rotation = _random_rotation(unit.shape[1], seed)
        peak = np.quantile(np.abs((unit - mean) @ rotation), _QUANTILE)
        return cls(
            mean=mean,
            rotation=rotation,
            scale=_LARGEST_CODE / np.maximum(np.float32(peak), _SMALLEST_PEAK),
        )

    def encode(self, vectors: Vectors) -> Codes:
        """Encode finite float32 [N, D] as int8 [N, D] in [-127, 127]."""
        scaled = self._scaled(vectors)
        np.rint(scaled, out=scaled)
        codes: Codes = np.clip(scaled, -_LARGEST_CODE, _LARGEST_CODE, out=scaled).astype(np.int8)
        return codes

    def clip_rate(self, vectors: Vectors) -> float:
        """Tell which part of the components lies outside the codes' range."""
        return float((np.abs(self._scaled(vectors)) > _LARGEST_CODE + 0.5).mean())

    def _scaled(self, vectors: Vectors) -> Vectors:
        scaled = cast("Vectors", (_unit(vectors) - self.mean) @ self.rotation)
        return np.multiply(scaled, self.scale, out=scaled)


Quantiser: TypeAlias = MaxAbsQuantiser | RotatedQuantiser
"""Codes whose order by `metric` is about the order of the vectors by cosine."""


def save_quantiser(path: Path, quantiser: Quantiser) -> None:
    """Write the file; not durable yet."""
    arrays: dict[str, NDArray[np.generic]] = {"name": np.array(quantiser.name)}
    if isinstance(quantiser, RotatedQuantiser):
        arrays |= {
            "mean": quantiser.mean,
            "rotation": quantiser.rotation,
            "scale": np.array(quantiser.scale),
        }
    with path.open("wb") as file:
        np.savez(file, allow_pickle=False, **arrays)


def load_quantiser(path: Path) -> Quantiser:
    """Read what `save_quantiser` wrote.

    Raises CorruptData if it is of an unknown kind or no archive, OSError.
    """
    # All of it at once: an archive that cannot be read is none to `zipfile`.
    with _archive(path, path.read_bytes()) as arrays:
        name = str(arrays["name"])
        if name == MaxAbsQuantiser.name:
            return MaxAbsQuantiser()
        if name != RotatedQuantiser.name:
            raise CorruptData(f"{path}: the quantiser {name!r} is unknown")
        return RotatedQuantiser(
            mean=arrays["mean"], rotation=arrays["rotation"], scale=np.float32(arrays["scale"])
        )


def _archive(path: Path, data: bytes) -> NpzFile:
    try:
        archive = np.load(io.BytesIO(data), allow_pickle=False)
    except (BadZipFile, EOFError, ValueError) as error:
        raise CorruptData(f"{path}: is damaged: {error}") from error
    if not isinstance(archive, NpzFile):
        raise CorruptData(f"{path}: is damaged: holds no archive")
    return archive


def _unit(vectors: Vectors) -> Vectors:
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True).astype(np.float32)
    return cast("Vectors", vectors / np.maximum(lengths, _SMALLEST_PEAK))


def _random_rotation(dim: int, seed: int) -> NDArray[np.float32]:
    gaussian = np.random.default_rng(seed).standard_normal((dim, dim))
    rotation, triangle = np.linalg.qr(gaussian)
    # Without the signs the distribution would not be uniform.
    uniform: NDArray[np.float32] = (rotation * np.sign(np.diag(triangle))).astype(np.float32)
    return uniform
