"""A random tiny checkpoint of every architecture family, the same on every machine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vecserve_server.domain.rows import Json
from vecserve_server.domain.vectors import TokenIds

HIDDEN, INNER, HEADS, LAYERS, POSITIONS, VOCABULARY = 32, 64, 4, 3, 160, 300
LENGTHS = (1, 2, 5, 23, 60, 140)
POOLINGS = ("cls", "max", "mean", "mean_sqrt_len", "weightedmean", "lasttoken")

Shapes = dict[str, tuple[int, ...]]

_COMMON: dict[str, Json] = {
    "hidden_act": "gelu",
    "hidden_size": HIDDEN,
    "intermediate_size": INNER,
    "layer_norm_eps": 1e-5,
    "max_position_embeddings": POSITIONS,
    "num_attention_heads": HEADS,
    "num_hidden_layers": LAYERS,
    "pad_token_id": 1,
    "type_vocab_size": 2,
    "vocab_size": VOCABULARY,
}


@dataclass(frozen=True)
class TinyFamily:
    """One family: its `config.json` and the names and shapes of its tensors."""

    name: str
    config: Mapping[str, Json]
    shapes: Shapes

    def tensors(self) -> dict[str, NDArray[np.float32]]:
        """Return seeded weights, large enough for every part of the network to matter."""
        # The one generator of NumPy whose stream is promised never to change.
        stream = np.random.RandomState(len(self.name))
        tensors = {}
        for name in sorted(self.shapes):
            values = stream.standard_normal(self.shapes[name]) * 0.2
            is_norm = "norm" in name.lower() and name.endswith(".weight")
            tensors[name] = (values + is_norm).astype(np.float32)
        return tensors


def sequences() -> list[TokenIds]:
    """Return token ids without the padding token, one sequence of each of `LENGTHS`."""
    stream = np.random.RandomState(7)
    return [stream.randint(3, VOCABULARY, length).astype(np.int64) for length in LENGTHS]


def _linear(name: str, inputs: int, outputs: int) -> Shapes:
    return {f"{name}.weight": (outputs, inputs), f"{name}.bias": (outputs,)}


def _norm(name: str) -> Shapes:
    return {f"{name}.weight": (HIDDEN,), f"{name}.bias": (HIDDEN,)}


def _embeddings(**tables: int) -> Shapes:
    shapes: Shapes = {f"embeddings.{name}.weight": (rows, HIDDEN) for name, rows in tables.items()}
    return shapes | _norm("embeddings.LayerNorm")


def _post_norm(layer: str, square: list[str], up: str, down: str, norms: list[str]) -> Shapes:
    shapes: Shapes = {}
    for i in range(LAYERS):
        for name in square:
            shapes |= _linear(f"{layer}.{i}.{name}", HIDDEN, HIDDEN)
        shapes |= _linear(f"{layer}.{i}.{up}", HIDDEN, INNER)
        shapes |= _linear(f"{layer}.{i}.{down}", INNER, HIDDEN)
        for name in norms:
            shapes |= _norm(f"{layer}.{i}.{name}")
    return shapes


_BERT_LAYERS = _post_norm(
    "encoder.layer",
    [*(f"attention.self.{part}" for part in ("query", "key", "value")), "attention.output.dense"],
    "intermediate.dense",
    "output.dense",
    ["attention.output.LayerNorm", "output.LayerNorm"],
)


def _like_bert(name: str, architecture: str, **config: Json) -> TinyFamily:
    merged = _COMMON | {"architectures": [architecture], "model_type": name} | config
    types = merged["type_vocab_size"]
    assert isinstance(types, int)
    embeddings = _embeddings(
        word_embeddings=VOCABULARY, position_embeddings=POSITIONS, token_type_embeddings=types
    )
    return TinyFamily(name, merged, embeddings | _BERT_LAYERS)


_MPNET = TinyFamily(
    "mpnet",
    _COMMON
    | {
        "architectures": ["MPNetModel"],
        "model_type": "mpnet",
        "relative_attention_num_buckets": 32,
    },
    _embeddings(word_embeddings=VOCABULARY, position_embeddings=POSITIONS)
    | {"encoder.relative_attention_bias.weight": (32, HEADS)}
    | _post_norm(
        "encoder.layer",
        [f"attention.attn.{part}" for part in "qkvo"],
        "intermediate.dense",
        "output.dense",
        ["attention.LayerNorm", "output.LayerNorm"],
    ),
)
_DISTILBERT = TinyFamily(
    "distilbert",
    {
        "architectures": ["DistilBertModel"],
        "model_type": "distilbert",
        "activation": "gelu",
        "dim": HIDDEN,
        "hidden_dim": INNER,
        "n_heads": HEADS,
        "n_layers": LAYERS,
        "max_position_embeddings": POSITIONS,
        "vocab_size": VOCABULARY,
    },
    _embeddings(word_embeddings=VOCABULARY, position_embeddings=POSITIONS)
    | _post_norm(
        "transformer.layer",
        [f"attention.{part}_lin" for part in ("q", "k", "v", "out")],
        "ffn.lin1",
        "ffn.lin2",
        ["sa_layer_norm", "output_layer_norm"],
    ),
)


def _modernbert() -> TinyFamily:
    """Five layers, so that both kinds of attention come twice; windows shorter than a text."""
    layers = 5
    norms = ["embeddings.norm", "final_norm"]
    norms += [f"layers.{i}.attn_norm" for i in range(1, layers)]
    norms += [f"layers.{i}.mlp_norm" for i in range(layers)]
    shapes: Shapes = {f"{name}.weight": (HIDDEN,) for name in norms}
    shapes["embeddings.tok_embeddings.weight"] = (VOCABULARY, HIDDEN)
    for i in range(layers):
        shapes[f"layers.{i}.attn.Wqkv.weight"] = (3 * HIDDEN, HIDDEN)
        shapes[f"layers.{i}.attn.Wo.weight"] = (HIDDEN, HIDDEN)
        shapes[f"layers.{i}.mlp.Wi.weight"] = (2 * INNER, HIDDEN)
        shapes[f"layers.{i}.mlp.Wo.weight"] = (HIDDEN, INNER)
    config: dict[str, Json] = {
        "architectures": ["ModernBertModel"],
        "model_type": "modernbert",
        "hidden_activation": "gelu",
        "hidden_size": HIDDEN,
        "intermediate_size": INNER,
        "num_attention_heads": HEADS,
        "num_hidden_layers": layers,
        "max_position_embeddings": POSITIONS,
        "vocab_size": VOCABULARY,
        "norm_eps": 1e-5,
        "global_attn_every_n_layers": 3,
        "global_rope_theta": 160000.0,
        "local_rope_theta": 100.0,
        "local_attention": 16,
        "pad_token_id": 1,
        "bos_token_id": 0,
        "eos_token_id": 2,
        "cls_token_id": 0,
        "sep_token_id": 2,
    }
    return TinyFamily("modernbert", config, shapes)


def _with_biases(family: TinyFamily) -> TinyFamily:
    """Every optional bias switched on, and the newer way of writing the rotation down."""
    shapes = dict(family.shapes)
    for name, shape in family.shapes.items():
        if name != "embeddings.tok_embeddings.weight":
            shapes[name.removesuffix("weight") + "bias"] = shape[:1]
    config = {key: value for key, value in family.config.items() if "rope_theta" not in key}
    config |= {"norm_bias": True, "attention_bias": True, "mlp_bias": True}
    config["layer_types"] = [
        "full_attention" if i % 2 else "sliding_attention"
        for i in range(int(str(config["num_hidden_layers"])))
    ]
    config["rope_parameters"] = {
        "full_attention": {"rope_type": "default", "rope_theta": 5000.0},
        "sliding_attention": {"rope_type": "default", "rope_theta": 50.0},
    }
    return replace(family, name="modernbert-biased", config=config, shapes=shapes)


TINY_FAMILIES: tuple[TinyFamily, ...] = (
    _like_bert("bert", "BertModel", pad_token_id=0, layer_norm_eps=1e-12, hidden_act="gelu_new"),
    _like_bert("roberta", "RobertaModel"),
    _like_bert("xlm-roberta", "XLMRobertaModel", type_vocab_size=1),
    _like_bert("camembert", "CamembertModel", type_vocab_size=1),
    _MPNET,
    _DISTILBERT,
    _modernbert(),
    _with_biases(_modernbert()),
)


def pooled(states: NDArray[Any], pooling: str) -> NDArray[np.float64]:
    """Return what a pooling mode makes of the states [T, D] of one text."""
    x = states.astype(np.float64)
    weights = np.arange(1, len(x) + 1)
    match pooling:
        case "cls":
            return np.asarray(x[0])
        case "lasttoken":
            return np.asarray(x[-1])
        case "max":
            return np.asarray(x.max(axis=0))
        case "mean":
            return np.asarray(x.mean(axis=0))
        case "mean_sqrt_len":
            return np.asarray(x.sum(axis=0) / np.sqrt(len(x)))
        case "weightedmean":
            return np.asarray(weights @ x / weights.sum())
    raise ValueError(pooling)
