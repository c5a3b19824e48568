"""Write the int8 files that OpenVINO runs.

Owns what the card calls them. Must not know how quantisers are placed or what they are calibrated
on.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from vecserve_server.domain.vectors import TokenIds, Vectors
from vecserve_server.encoding.encoder_session import EncoderSession
from vecserve_server.encoding.packing import pack
from vecserve_server.engines.engine import SessionSettings
from vecserve_server.engines.openvino.engine import FILES
from vecserve_server.engines.openvino.runtime import openvino_module
from vecserve_server.engines.openvino.session import OpenVinoSession
from vecserve_server.importing.quantise.calibration import Calibration
from vecserve_server.importing.quantise.openvino_int8 import quantise
from vecserve_server.importing.quantise.parity import Embed

MODEL_FILE, _ = FILES["int8"]
NAME = "int8-openvino"
"""What the card calls these files."""


def write_int8(fp32_file: Path, folder: Path, calibration: Calibration) -> None:
    """Quantise the fp32 graph and write both files; raises `ModelError` where it does not fit."""
    openvino = openvino_module()
    model = openvino.Core().read_model(fp32_file)
    quantise(model, calibration)
    openvino.save_model(model, folder / MODEL_FILE, compress_to_fp16=False)


def embed_with_openvino(file: Path) -> Embed:
    """Return how to embed with a packed-rows file in OpenVINO."""
    settings = SessionSettings(total_threads=1, is_encoder=True)
    session = EncoderSession(OpenVinoSession(file, settings), file)

    def embed(sequences: Sequence[TokenIds]) -> Vectors:
        return session.run(pack(sequences, [list(range(len(sequences)))])).vectors

    return embed
