"""An encoder's graph in one of the server's engines, without a server."""

from __future__ import annotations

from pathlib import Path

from vecserve_server.encoding.encoder_session import EncoderSession
from vecserve_server.engines.engine import SessionSettings
from vecserve_server.engines.registry import shipped_engines


def open_encoder(engine: str, model_file: Path, *, threads: int) -> EncoderSession:
    """Load a file for so many threads."""
    settings = SessionSettings(runs=threads, total_threads=threads, is_encoder=True)
    return EncoderSession(shipped_engines()[engine].open(model_file, settings), model_file)
