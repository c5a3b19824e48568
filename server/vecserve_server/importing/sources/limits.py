"""How long a text of a checkpoint may be.

Owns the order in which the limits count. Must not know architectures.
"""

from __future__ import annotations

from dataclasses import dataclass

from vecserve_server.errors import ModelError
from vecserve_server.importing.sources.checkpoint import Checkpoint


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenLimit:
    """The longest text, special tokens included."""

    tokens: int
    clamped: str | None = None
    """Which of the checkpoint's own limits is not kept and why, in words."""


def token_limit(checkpoint: Checkpoint, *, longest: int | None, wanted: int | None) -> TokenLimit:
    """Choose what the user wants, else what the authors set, else `longest`.

    `longest` is what the encoder's positions allow, None where that is not known. A limit of the
    authors' beyond it is cut down to it. Raises `ModelError` where the user's exceeds it, and
    where there is none.
    """
    if wanted is not None:
        if longest is not None and wanted > longest:
            raise ModelError(f"max_length is {wanted}, the checkpoint has positions for {longest}")
        return TokenLimit(tokens=wanted)
    stated, where = _stated(checkpoint)
    if stated is None:
        if longest is None:
            raise ModelError(
                "config.json: max_position_embeddings is missing: "
                "say how long texts may be (--max-length)"
            )
        return TokenLimit(tokens=longest)
    if longest is not None and stated > longest:
        clamped = f"{longest} tokens: {where} {stated} exceeds the encoder's positions"
        return TokenLimit(tokens=longest, clamped=clamped)
    return TokenLimit(tokens=stated)


def _stated(checkpoint: Checkpoint) -> tuple[int | None, str]:
    """Return the authors' limit and where it stands; the tokenizer's counts last."""
    sentence = checkpoint.sentence
    if sentence.max_tokens is not None:
        return sentence.max_tokens, f"{sentence.files[0].name}: max_seq_length"
    return checkpoint.model_max_length, "tokenizer_config.json: model_max_length"
