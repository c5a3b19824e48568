"""Run a graph under construction on short texts.

Owns the sample texts and the plainest way to run an encoder's graph. Must not know what the results
are for.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from tokenizers import Tokenizer

from vecserve_server.domain.vectors import TokenIds
from vecserve_server.errors import ModelError
from vecserve_server.importing.sources.model_file import save_model

CALIBRATION_TEXTS = (
    "b",
    "good morning",
    "blue cotton shirt, long sleeves, size M",
    "Where is my order? It should have come last week.",
    "I want to change the delivery address of my parcel.",
    "The screen of my phone cracked after one day; can it be repaired under warranty?",
    "Warum wurde meine Karte abgelehnt?",
    "Comment puis-je récupérer mon mot de passe ?",
    "for i in range(10): print(i ** 2)",
    '{"id": 17, "name": "bolt", "price": 0.35}',
    "https://www.example.org/docs/index.html",
    "... --- ...",
    "👍 great service, five stars ⭐⭐⭐⭐⭐",
    "北京是中国的首都。",
    "1 2 3 5 8 13 21 34 55 89",
    "WARN cache miss rate 0.87 on node-3 at 10:42:17",
    "USB-C charger 65 W with two ports",
    "Rivers carry sediment from the mountains to the sea, where it settles in layers.",
    "The committee will publish its report on inflation and interest rates in March.",
    "Plants turn sunlight, water and carbon dioxide into sugar and oxygen.",
    "Can I get a receipt for the payment I made on Tuesday?",
    "The train to the coast leaves at noon from platform four.",
    "non-stick frying pan 28 cm",
    "Who wrote the first novel in English?",
)
"""To learn the range of activations from."""

CALIBRATION_NAME = f"the {len(CALIBRATION_TEXTS)} texts that ship with the exporter"

PARITY_TEXTS = (
    "a",
    "hello",
    "red running shoes size 42",
    "How do I reset my password?",
    "The parcel arrived damaged and I would like a refund.",
    "wireless headphones, noise cancelling, 30 hours of battery",
    "Wie kann ich meine Bestellung stornieren?",
    "La commande n'est jamais arrivée.",
    "def add(a: int, b: int) -> int: return a + b",
    "SELECT id FROM orders WHERE total > 100 ORDER BY id;",
    "https://example.com/a/b?c=d#e",
    "!!! ??? ...",
    "🙂 thanks a lot 🎉",
    "東京は日本の首都です。",
    "3.14159 2.71828 1.41421",
    "ERROR 2024-01-01 disk full on /dev/sda1",
    "HDMI cable 2 m, gold plated, 4K at 60 Hz",
    "The cat sat on the mat while the rain fell on the roof of the old house.",
    "Quarterly revenue rose by eight percent, driven by higher demand in Asia.",
    "An enzyme is a protein that speeds up a chemical reaction in a living cell.",
    "My card was charged twice for the same purchase yesterday.",
    "Please update the shipping address of order 12345.",
    "stainless steel water bottle",
    "Which airport is closest to the city centre?",
)
"""To measure precision on; none of them is calibrated on."""

_LONGEST_TOKENS = 64


def tokenise(
    tokenizer_json: bytes,
    texts: Sequence[str],
    max_tokens: int,
    *,
    longest_tokens: int = _LONGEST_TOKENS,
) -> list[TokenIds]:
    """Return each text's ids, `longest_tokens` at most.

    Raises `ModelError` for a malformed tokenizer.
    """
    try:
        tokenizer = Tokenizer.from_buffer(tokenizer_json)
        tokenizer.no_padding()
        tokenizer.enable_truncation(min(max_tokens, longest_tokens))
        return [np.array(tokenizer.encode(text).ids, np.int64) for text in texts]
    except Exception as error:
        raise ModelError(f"tokenizer.json: not a usable tokenizer ({error})") from error


def session_of(build: Callable[[], onnx.ModelProto]) -> onnxruntime.InferenceSession:
    """Open the graph that `build` returns, without keeping it in memory a second time."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.onnx"
        save_model(build(), file)
        return open_session(file)


def open_session(file: Path) -> onnxruntime.InferenceSession:
    """Open a file with one thread; raises `ModelError` where ONNX Runtime cannot."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    try:
        return onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise ModelError(f"{file.name}: not loadable by ONNX Runtime ({error})") from error


def run_together(
    session: onnxruntime.InferenceSession, sequences: Sequence[TokenIds]
) -> list[NDArray[np.float32]]:
    """Run the sequences as one batch, packed or padded as the graph takes it.

    Returns every output.
    """
    names = {value.name for value in session.get_inputs()}
    feeds = _one_row(sequences) if "segment_ids" in names else _padded(sequences, names)
    outputs: list[NDArray[np.float32]] = session.run(None, feeds)
    return outputs


def _one_row(sequences: Sequence[TokenIds]) -> dict[str, TokenIds]:
    lengths = [len(ids) for ids in sequences]
    return {
        "input_ids": np.concatenate(sequences)[None],
        "position_ids": np.concatenate([np.arange(length) for length in lengths])[None],
        "segment_ids": np.repeat(np.arange(len(lengths)), lengths)[None],
        "seqs": np.arange(len(lengths)),
    }


def _padded(sequences: Sequence[TokenIds], names: Collection[str]) -> dict[str, TokenIds]:
    shape = (len(sequences), max(map(len, sequences)))
    feeds = {name: np.zeros(shape, np.int64) for name in names}
    for row, ids in enumerate(sequences):
        feeds["input_ids"][row, : len(ids)] = ids
        feeds["attention_mask"][row, : len(ids)] = 1
    return feeds
