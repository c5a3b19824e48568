"""Build a checkpoint's own graphs over packed rows.

Owns what each precision takes: weights, calibration, linear blocks. Must not know the repository.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from vecserve_server.export.calibration import channel_peaks
from vecserve_server.export.checkpoint import Checkpoint
from vecserve_server.export.encoder_graph import encoder_graph, family_for
from vecserve_server.export.family import FamilySize, Weights
from vecserve_server.export.limits import max_tokens
from vecserve_server.export.linear import Int8Linear, Linear, float_linear
from vecserve_server.export.memory import check_fits
from vecserve_server.export.model_file import save_model
from vecserve_server.export.sample_run import CALIBRATION_TEXTS, tokenise
from vecserve_server.export.tensors import weight_files

MODEL_FILE_BY_PRECISION: Mapping[str, str] = MappingProxyType(
    {"fp32": "model.onnx", "int8": "model.int8.onnx", "fp16": "model.fp16.onnx"}
)


@dataclass(frozen=True, slots=True, kw_only=True)
class PackedBuild:
    """A checkpoint whose architecture the exporter builds itself."""

    checkpoint: Checkpoint
    weights: Weights
    max_tokens: int
    weight_paths: tuple[Path, ...]
    calibration_texts: Sequence[str] = CALIBRATION_TEXTS

    @property
    def dim(self) -> int:
        """Return the embedding's width."""
        return self.checkpoint.modules.head.dim(_size(self.checkpoint).hidden)

    @property
    def architecture(self) -> str:
        """See `Build`."""
        return self.checkpoint.config.architecture()

    @property
    def layout(self) -> str:
        """See `Build`."""
        return "packed"

    @property
    def default_precisions(self) -> tuple[str, ...]:
        """See `Build`."""
        return ("fp32", "int8")

    def write(self, precision: str, file: Path) -> None:
        """Write the graph of one precision; raises `ModelError` for what cannot be built."""
        model = encoder_graph(
            config=self.checkpoint.config,
            weights=self.weights,
            head=self.checkpoint.modules.head,
            linear=self._linear(precision),
            half=precision == "fp16",
        )
        save_model(model, file)

    def _linear(self, precision: str) -> Linear:
        if precision != "int8":
            return float_linear
        sequences = tokenise(
            self.checkpoint.tokenizer_json, self.calibration_texts, self.max_tokens
        )
        return Int8Linear(
            channel_peaks(config=self.checkpoint.config, weights=self.weights, sequences=sequences)
        )


def packed_build(
    checkpoint: Checkpoint,
    *,
    max_length: int | None,
    memory_limit_bytes: int | None,
    calibration_texts: Sequence[str] = CALIBRATION_TEXTS,
) -> PackedBuild:
    """Read the weights, once they are known to fit into the memory that may be used.

    Raises `ModelError` for an unsupported architecture, too long a `max_length`, too little
    memory, and for damaged weights.
    """
    longest = _size(checkpoint).max_tokens
    found = weight_files(checkpoint.modules.encoder)
    check_fits(found.size_bytes, memory_limit_bytes)
    checkpoint.modules.head.dim(_size(checkpoint).hidden)
    return PackedBuild(
        checkpoint=checkpoint,
        max_tokens=max_tokens(checkpoint, longest=longest, wanted=max_length),
        weights=Weights(found.read()),
        weight_paths=found.files,
        calibration_texts=calibration_texts,
    )


def _size(checkpoint: Checkpoint) -> FamilySize:
    return family_for(checkpoint.config.architecture()).size(checkpoint.config)
