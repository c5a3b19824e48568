"""Text models by the engines that the server ships."""

from __future__ import annotations

from pathlib import Path

from vecserve_server.encoding.encoder_session import EncoderSession
from vecserve_server.encoding.text_model import TextModelLoader
from vecserve_server.engines.engine import SessionSettings
from vecserve_server.engines.registry import shipped_engines


def text_models(root: Path, *, default_instances: int = 1) -> TextModelLoader:
    return TextModelLoader(root, engines=shipped_engines(), default_instances=default_instances)


def open_encoder(engine: str, model_file: Path, *, threads: int = 1) -> EncoderSession:
    """Load an encoder's graph for so many threads."""
    settings = SessionSettings(runs=threads, total_threads=threads, is_encoder=True)
    return EncoderSession(shipped_engines()[engine].open(model_file, settings), model_file)
