"""Live against torch, transformers and sentence-transformers; `make test-export` has them.

They are no dependency of the project, so these tests skip without them.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from vecserve_server.domain import Vectors
from vecserve_server.export.head import Head
from vecserve_server.export.importer import import_model
from vecserve_server.export.sample_run import open_session, run_together, tokenise

from .multilingual_tokenizer import TEXTS, multilingual_tokenizer
from .test_families import embed, expected, of_every_family
from .tiny_families import HIDDEN, POOLINGS, TINY_FAMILIES, TinyFamily, sequences
from .transformers_reference import expected_vectors

pytestmark = [
    pytest.mark.skipif(
        any(
            importlib.util.find_spec(name) is None
            for name in ("torch", "transformers", "sentence_transformers")
        ),
        reason="torch, transformers or sentence-transformers is not installed: make test-export",
    ),
    pytest.mark.filterwarnings("ignore"),
]


@of_every_family()
def test_every_pooling_of_a_family(family: TinyFamily, tmp_path: Path) -> None:
    exact = expected_vectors(family, sequences(), tmp_path)

    np.testing.assert_allclose(exact, expected(family), atol=1e-4, err_msg="family_reference.npz")
    for pooling, wanted in zip(POOLINGS, exact, strict=True):
        found = embed(family, Head(poolings=(pooling,)), sequences())
        assert np.abs(found - wanted).max() <= 1e-4


@of_every_family()
@pytest.mark.parametrize(
    ("modes", "dense", "normalise"),
    [
        (["mean"], [], True),
        (["weightedmean", "cls"], [], False),
        (["max", "mean_sqrt_len_tokens", "lasttoken"], ["Tanh"], True),
        (["cls"], ["GELU", "Identity"], False),
    ],
)
def test_a_checkpoint_that_sentence_transformers_saved(
    family: TinyFamily, modes: list[str], dense: list[str], normalise: bool, tmp_path: Path
) -> None:
    model = _sentence_transformer(family, modes, dense, normalise, tmp_path / "base")
    model.save(str(tmp_path / "saved"))

    card = import_model(source=tmp_path / "saved", repository=tmp_path / "models", name="tiny")

    assert (card.normalise, card.pooling.count("+")) == (normalise, len(modes) - 1)
    wanted = model.encode(list(TEXTS), convert_to_numpy=True, batch_size=3)
    found = _embed_imported(tmp_path / "models" / "tiny" / "1", normalise)
    assert np.abs(found - wanted).max() <= 1e-4


def _sentence_transformer(
    family: TinyFamily, modes: list[str], dense: list[str], normalise: bool, folder: Path
) -> Any:
    """Chain modules around a family's tiny checkpoint, with a multilingual tokenizer."""
    torch, transformers, library, modules = map(
        importlib.import_module,
        (
            "torch",
            "transformers",
            "sentence_transformers",
            "sentence_transformers.sentence_transformer.modules",
        ),
    )
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(dict(family.config)), encoding="utf-8")
    save_file(family.tensors(), folder / "model.safetensors", metadata={"format": "pt"})
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=multilingual_tokenizer(),
        pad_token="<pad>",
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        model_max_length=128,
    ).save_pretrained(folder)
    torch.manual_seed(0)
    chain = [modules.Transformer(str(folder)), modules.Pooling(HIDDEN, pooling_mode=modes)]
    width = HIDDEN * len(modes)
    for name in dense:
        activation = getattr(torch.nn, name)()
        chain.append(modules.Dense(width, 24, activation_function=activation))
        width = 24
    return library.SentenceTransformer(modules=[*chain, *[modules.Normalize()] * normalise])


def _embed_imported(version: Path, normalise: bool) -> Vectors:
    ids = tokenise((version / "tokenizer.json").read_bytes(), TEXTS, 128)
    embedding, norm = run_together(open_session(version / "model.onnx"), ids)
    vectors: Vectors = embedding if normalise else embedding * norm[:, None]
    return vectors


def test_a_ready_made_onnx_file(tmp_path: Path) -> None:
    """The export of torch itself, over padded batches, against transformers one by one."""
    torch, transformers = map(importlib.import_module, ("torch", "transformers"))
    family = TINY_FAMILIES[0]
    exact = expected_vectors(family, sequences(), tmp_path)[POOLINGS.index("mean")]
    model = transformers.AutoModel.from_pretrained(tmp_path, attn_implementation="eager").eval()
    (tmp_path / "model.safetensors").unlink()
    multilingual_tokenizer().save(str(tmp_path / "tokenizer.json"))
    names = ["input_ids", "attention_mask"]
    torch.onnx.export(
        _Plain(torch, model),
        (torch.ones(2, 5, dtype=torch.int64), torch.ones(2, 5, dtype=torch.int64)),
        str(tmp_path / "model.onnx"),
        input_names=names,
        output_names=["last_hidden_state"],
        dynamic_axes={name: {0: "n", 1: "t"} for name in names},
        dynamo=False,
        opset_version=14,
    )

    card = import_model(source=tmp_path, repository=tmp_path / "models", name="tiny")

    assert (card.layout, card.assumed is None) == ("padded", False)
    session = open_session(tmp_path / "models" / "tiny" / "1" / "model.onnx")
    embedding, norm = run_together(session, sequences())
    assert np.abs(embedding * norm[:, None] - exact).max() <= 1e-4


def _Plain(torch: Any, model: Any) -> Any:
    class Plain(torch.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, input_ids: Any, attention_mask: Any) -> Any:
            return self.model(input_ids=input_ids, attention_mask=attention_mask)[0]

    return Plain()
