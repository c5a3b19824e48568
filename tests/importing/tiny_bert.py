"""A random two-layer BERT: its checkpoint on disk, and its forward pass in plain NumPy."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from vecserve_server.domain.rows import Json
from vecserve_server.importing.quantise.sample_run import CALIBRATION_TEXTS, PARITY_TEXTS

Array = NDArray[Any]

HIDDEN, INNER, HEADS, LAYERS, POSITIONS, VOCABULARY = 32, 64, 4, 2, 48, 300

CONFIG: dict[str, Json] = {
    "architectures": ["BertModel"],
    "hidden_act": "gelu",
    "hidden_size": HIDDEN,
    "intermediate_size": INNER,
    "layer_norm_eps": 1e-12,
    "max_position_embeddings": POSITIONS,
    "num_attention_heads": HEADS,
    "num_hidden_layers": LAYERS,
    "type_vocab_size": 2,
    "vocab_size": VOCABULARY,
}


def random_tensors(seed: int = 0) -> dict[str, Array]:
    rng = np.random.default_rng(seed)
    shapes: dict[str, tuple[int, ...]] = {
        "embeddings.word_embeddings.weight": (VOCABULARY, HIDDEN),
        "embeddings.position_embeddings.weight": (POSITIONS, HIDDEN),
        "embeddings.token_type_embeddings.weight": (2, HIDDEN),
    }
    norms = ["embeddings.LayerNorm"]
    for i in range(LAYERS):
        layer = f"encoder.layer.{i}"
        dense = {
            f"{layer}.attention.self.query": (HIDDEN, HIDDEN),
            f"{layer}.attention.self.key": (HIDDEN, HIDDEN),
            f"{layer}.attention.self.value": (HIDDEN, HIDDEN),
            f"{layer}.attention.output.dense": (HIDDEN, HIDDEN),
            f"{layer}.intermediate.dense": (INNER, HIDDEN),
            f"{layer}.output.dense": (HIDDEN, INNER),
        }
        for name, shape in dense.items():
            shapes |= {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
        norms += [f"{layer}.attention.output.LayerNorm", f"{layer}.output.LayerNorm"]
    tensors = {
        name: rng.normal(scale=0.2, size=shape).astype(np.float32) for name, shape in shapes.items()
    }
    for name in norms:
        tensors[f"{name}.weight"] = rng.uniform(0.5, 2, HIDDEN).astype(np.float32)
        tensors[f"{name}.bias"] = rng.normal(scale=0.1, size=HIDDEN).astype(np.float32)
    return tensors


def token_states(tensors: dict[str, Array], ids: Sequence[int]) -> Array:
    """Return the last hidden states, float64 [T, HIDDEN], of one sequence."""
    t = {name: tensor.astype(np.float64) for name, tensor in tensors.items()}
    x = t["embeddings.word_embeddings.weight"][list(ids)]
    x = x + t["embeddings.position_embeddings.weight"][: len(ids)]
    x = _norm(t, "embeddings.LayerNorm", x + t["embeddings.token_type_embeddings.weight"][0])
    for i in range(LAYERS):
        layer = f"encoder.layer.{i}"
        heads = [
            _dense(t, f"{layer}.attention.self.{part}", x).reshape(len(ids), HEADS, -1)
            for part in ("query", "key", "value")
        ]
        mixed = _dense(t, f"{layer}.attention.output.dense", _attend(*heads))
        x = _norm(t, f"{layer}.attention.output.LayerNorm", mixed + x)
        wide = _gelu(_dense(t, f"{layer}.intermediate.dense", x))
        x = _norm(t, f"{layer}.output.LayerNorm", _dense(t, f"{layer}.output.dense", wide) + x)
    return x


def _attend(query: Array, key: Array, value: Array) -> Array:
    scores = np.einsum("qhd,khd->hqk", query, key) / math.sqrt(HIDDEN / HEADS)
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    weights /= weights.sum(axis=-1, keepdims=True)
    mixed: Array = np.einsum("hqk,khd->qhd", weights, value).reshape(len(query), HIDDEN)
    return mixed


def _dense(t: dict[str, Array], name: str, x: Array) -> Array:
    product: Array = x @ t[f"{name}.weight"].T + t[f"{name}.bias"]
    return product


def _norm(t: dict[str, Array], name: str, x: Array) -> Array:
    centred = x - x.mean(axis=-1, keepdims=True)
    scaled: Array = centred / np.sqrt((centred**2).mean(axis=-1, keepdims=True) + 1e-12)
    shifted: Array = scaled * t[f"{name}.weight"] + t[f"{name}.bias"]
    return shifted


def _gelu(x: Array) -> Array:
    activated: Array = x * 0.5 * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))
    return activated


@dataclass(kw_only=True)
class CheckpointFiles:
    """What a sentence-transformers folder holds; change it, then write it."""

    config: dict[str, Json] = field(default_factory=CONFIG.copy)
    tensors: dict[str, Array] = field(default_factory=random_tensors)
    modules: list[str] = field(default_factory=lambda: ["Transformer", "Pooling", "Normalize"])
    pooling: dict[str, Any] = field(
        default_factory=lambda: {
            "word_embedding_dimension": HIDDEN,
            "pooling_mode_cls_token": False,
            "pooling_mode_mean_tokens": True,
        }
    )
    sentence_bert: dict[str, Any] = field(default_factory=lambda: {"max_seq_length": 40})
    sentence_transformers: dict[str, Any] = field(default_factory=dict)
    readme: str = "---\nlanguage: en\nlicense: mit\n---\n# A model\nlicense: not this one\n"

    def write(self, folder: Path) -> Path:
        paths = {"Transformer": "", "Pooling": "1_Pooling", "Normalize": "2_Normalize"}
        modules = [
            {
                "idx": i,
                "path": paths.get(kind, kind),
                "type": f"sentence_transformers.models.{kind}",
            }
            for i, kind in enumerate(self.modules)
        ]
        (folder / "1_Pooling").mkdir(parents=True)
        objects = {
            "config.json": self.config,
            "modules.json": modules,
            "1_Pooling/config.json": self.pooling,
            "sentence_bert_config.json": self.sentence_bert,
            "config_sentence_transformers.json": self.sentence_transformers,
        }
        for name, value in objects.items():
            (folder / name).write_text(json.dumps(value), encoding="utf-8")
        (folder / "README.md").write_text(self.readme, encoding="utf-8")
        save_file(self.tensors, folder / "model.safetensors")
        _tokenizer().save(str(folder / "tokenizer.json"))
        return folder


def _tokenizer() -> Tokenizer:
    splitter = pre_tokenizers.Whitespace()
    words = {
        word
        for text in CALIBRATION_TEXTS + PARITY_TEXTS
        for word, _ in splitter.pre_tokenize_str(text)
    }
    known = ["[UNK]", "[CLS]", "[SEP]", *sorted(words)][:VOCABULARY]
    vocabulary = {word: i for i, word in enumerate(known)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = splitter
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    return tokenizer
