"""Build a checkpoint's own graphs over packed rows.

Owns what each precision takes: weights, calibration, linear blocks. Must not know the repository.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from vecserve_server.engines.onnxruntime.engine import FILES
from vecserve_server.importing.families.encoder_graph import encoder_graph
from vecserve_server.importing.families.families import class_name, family_for
from vecserve_server.importing.families.family import FamilySize, Weights
from vecserve_server.importing.graph.linear import Int8Linear, float_linear
from vecserve_server.importing.quantise.calibration import (
    SHIPPED_TEXTS,
    Calibration,
    CalibrationSource,
    calibrate,
    calibration_sequences,
)
from vecserve_server.importing.sources.checkpoint import Checkpoint
from vecserve_server.importing.sources.limits import TokenLimit, token_limit
from vecserve_server.importing.sources.memory import check_fits
from vecserve_server.importing.sources.model_file import save_model
from vecserve_server.importing.sources.tensors import weight_files
from vecserve_server.model_files.encoder_config import PACKED

MODEL_FILE_BY_PRECISION: Mapping[str, str] = MappingProxyType(
    {precision: names[0] for precision, names in FILES.items()}
)


@dataclass(frozen=True, slots=True, kw_only=True)
class PackedBuild:
    """A checkpoint whose architecture the exporter builds itself."""

    checkpoint: Checkpoint
    weights: Weights
    limit: TokenLimit
    weight_paths: tuple[Path, ...]
    calibration_source: CalibrationSource = SHIPPED_TEXTS

    @property
    def max_tokens(self) -> int:
        """See `Build`."""
        return self.limit.tokens

    @property
    def clamped(self) -> str | None:
        """See `Build`."""
        return self.limit.clamped

    @property
    def dim(self) -> int:
        """Return the embedding's width."""
        return self.checkpoint.modules.head.dim(_size(self.checkpoint).hidden)

    @property
    def architecture(self) -> str:
        """See `Build`."""
        return class_name(self.checkpoint.config)

    @property
    def layout(self) -> str:
        """See `Build`."""
        return PACKED

    @property
    def default_precisions(self) -> tuple[str, ...]:
        """See `Build`."""
        return ("fp32", "int8")

    def calibration(self) -> Calibration:
        """See `Build`."""
        source = self.calibration_source
        if source.ready is not None:
            return source.ready
        sequences = calibration_sequences(
            self.checkpoint.tokenizer_json, source.texts, self.max_tokens
        )
        return calibrate(config=self.checkpoint.config, weights=self.weights, sequences=sequences)

    def write(self, precision: str, file: Path, calibration: Calibration | None = None) -> None:
        """See `Build`."""
        model = encoder_graph(
            config=self.checkpoint.config,
            weights=self.weights,
            head=self.checkpoint.modules.head,
            linear=float_linear if calibration is None else Int8Linear(calibration.blocks),
            half=precision == "fp16",
        )
        save_model(model, file)


def packed_build(
    checkpoint: Checkpoint,
    *,
    max_length: int | None,
    memory_limit_bytes: int | None,
    calibration: CalibrationSource = SHIPPED_TEXTS,
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
        limit=token_limit(checkpoint, longest=longest, wanted=max_length),
        weights=Weights(found.read()),
        weight_paths=found.files,
        calibration_source=calibration,
    )


def _size(checkpoint: Checkpoint) -> FamilySize:
    return family_for(checkpoint.config).size(checkpoint.config)
