"""How long a text of a checkpoint may be.

Owns the order in which the limits count. Must not know architectures.
"""

from __future__ import annotations

from vecserve_server.errors import ModelError
from vecserve_server.export.checkpoint import Checkpoint


def max_tokens(checkpoint: Checkpoint, *, longest: int, wanted: int | None) -> int:
    """Return the longest text: what the user wants, else what the authors set, else `longest`.

    `longest` is what the encoder's positions allow. Raises `ModelError` where that is exceeded.
    """
    stated = checkpoint.max_seq_length or min(checkpoint.model_max_length or longest, longest)
    chosen = wanted or stated
    if chosen > longest:
        raise ModelError(f"max_length is {chosen}, the checkpoint has positions for {longest}")
    return chosen
