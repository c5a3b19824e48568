"""Requests for the default model, as tritonclient writes them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import tritonclient.grpc as triton

MODEL = "all-MiniLM-L6-v2"
DIM = 384
TEXTS = ["a red car", "", "Grüße aus Köln", "def f(x): return x", "🦄" * 20, "word " * 400]


def byte_tensor(texts: Sequence[str]) -> Any:
    """BYTES [N, 1]."""
    return np.array([[text.encode()] for text in texts], object)


def text_input(texts: Sequence[str]) -> triton.InferInput:
    tensor = triton.InferInput("text", [len(texts), 1], "BYTES")
    return tensor.set_data_from_numpy(byte_tensor(texts))
