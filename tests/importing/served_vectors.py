"""What a server makes of texts with an imported model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tests.text_models import text_models
from vecserve_server.domain.embedding import Truncate
from vecserve_server.domain.vectors import Vectors
from vecserve_server.encoding.preprocessor import Preparation
from vecserve_server.encoding.text_preprocessor import tokenise
from vecserve_server.serving.embedder import finish


def served(
    repository: Path,
    texts: Sequence[str],
    *,
    prompt: str = "",
    name: str = "tiny",
    precision: str = "fp32",
) -> Vectors:
    """Return float32 [N, D] as the model is configured, each text after the prompt."""
    model = text_models(repository).load(name, precision=precision, engine="onnxruntime")
    side: Truncate = "left" if model.config.truncation_side == "left" else "right"
    prompted = [f"{prompt}{text}" for text in texts]
    preparation = Preparation(prompt=prompt, truncate=side)
    tokenised = tokenise(model.tokenizer, model.config, prompted, preparation)
    ids = [item.ids for item in tokenised]
    encodings = model.encoder.run(ids)
    model.encoder.close()
    return finish(encodings, dim=model.config.dim, normalise=model.config.normalise)
