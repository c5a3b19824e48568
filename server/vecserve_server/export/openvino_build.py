"""Write the int8 files that OpenVINO runs.

Owns the file names, the calibration sequences and the calibration that ships with the product.
Must not know how quantisers are placed.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from vecserve_server.domain import TokenIds, Vectors
from vecserve_server.encoding.openvino_engine import OpenVinoEngine
from vecserve_server.encoding.openvino_runtime import openvino_module
from vecserve_server.encoding.packing import pack
from vecserve_server.export.openvino_int8 import Calibration, calibrate, quantise
from vecserve_server.export.parity import Embed
from vecserve_server.export.sample_run import CALIBRATION_NAME, CALIBRATION_TEXTS, tokenise

MODEL_FILE, WEIGHTS_FILE = "model.int8.xml", "model.int8.bin"

NAME = "int8-openvino"
"""What the card calls these files."""

_MIXED_TEXTS = 256
_LONGEST_WORDS = 60
_PARTS = ("factors", "corrections")


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrationSource:
    """What int8 is calibrated on."""

    name: str
    """What the card calls it."""
    texts: Sequence[str]
    ready: Calibration | None = None
    """What was learnt from them already."""


SHIPPED_TEXTS = CalibrationSource(name=CALIBRATION_NAME, texts=CALIBRATION_TEXTS)


def write_int8(fp32_file: Path, folder: Path, calibration: Calibration) -> None:
    """Quantise the fp32 graph and write both files; raises `ModelError` where it does not fit."""
    openvino = openvino_module()
    model = openvino.Core().read_model(fp32_file)
    quantise(model, calibration)
    openvino.save_model(model, folder / MODEL_FILE, compress_to_fp16=False)


def embed_with_openvino(file: Path) -> Embed:
    """Return how to embed with a packed-rows file in OpenVINO."""
    engine = OpenVinoEngine(model_file=file, threads=1)

    def embed(sequences: Sequence[TokenIds]) -> Vectors:
        return engine.run(pack(sequences, [list(range(len(sequences)))])).vectors

    return embed


def learn(fp32_file: Path, sequences: Sequence[TokenIds]) -> Calibration:
    """Calibrate the fp32 graph on the sequences."""
    return calibrate(openvino_module().Core().read_model(fp32_file), sequences)


def calibration_sequences(
    tokenizer_json: bytes, texts: Sequence[str], max_tokens: int
) -> list[TokenIds]:
    """Return the texts' ids, and those of mixtures of their words and of the vocabulary's.

    A few channels get their largest values from rare tokens, which no small set of texts holds.
    """
    share = np.random.default_rng(0)
    words = " ".join(texts).split()
    lengths = share.integers(3, _LONGEST_WORDS, _MIXED_TEXTS)
    mixed = [" ".join(share.choice(words, length)) for length in lengths]
    tokenizer = Tokenizer.from_buffer(tokenizer_json)
    vocabulary = tokenizer.get_vocab_size()
    rare = [
        tokenizer.decode(share.integers(0, vocabulary, length).tolist())
        for length in share.integers(3, _LONGEST_WORDS, _MIXED_TEXTS)
    ]
    return tokenise(tokenizer_json, [*texts, *mixed, *rare], max_tokens)


def shipped_calibration(name: str) -> Calibration | None:
    """Return the calibration that ships for a model, if one does."""
    file = resources.files("vecserve_server.export") / "data" / f"{name}.calibration.npz"
    return read_calibration(file.read_bytes()) if file.is_file() else None


def read_calibration(content: bytes) -> Calibration:
    """Read what `calibration_bytes` wrote."""
    with np.load(io.BytesIO(content)) as arrays:
        lists = {
            part: [
                arrays[f"{part}{index}"].astype(np.float32)
                for index in range(sum(key.startswith(part) for key in arrays))
            ]
            for part in _PARTS
        }
        ranges = [(float(low), float(high)) for low, high in arrays["ranges"]]
        peaks = [float(peak) for peak in arrays["peaks"]]
    return Calibration(ranges=ranges, peaks=peaks, **lists)


def calibration_bytes(calibration: Calibration) -> bytes:
    """Write a calibration, its long arrays as float16."""
    arrays = {
        f"{part}{index}": values.astype(np.float16)
        for part in _PARTS
        for index, values in enumerate(getattr(calibration, part))
    }
    file = io.BytesIO()
    np.savez_compressed(file, ranges=calibration.ranges, peaks=calibration.peaks, **arrays)
    return file.getvalue()
