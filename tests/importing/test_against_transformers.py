"""Live against torch, transformers and sentence-transformers; `make test-export` has them.

They are no dependency of the project, so these tests skip without them.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from tests.importing.multilingual_tokenizer import (
    TEXTS,
    multilingual_tokenizer,
    word_piece_tokenizer,
)
from tests.importing.served_vectors import served
from tests.importing.test_families import embed, expected, of_every_family
from tests.importing.tiny_families import HIDDEN, POOLINGS, TINY_FAMILIES, TinyFamily, sequences
from tests.importing.transformers_reference import expected_vectors
from vecserve_server.domain.vectors import Vectors
from vecserve_server.importing.graph.head import Head
from vecserve_server.importing.importer import import_model
from vecserve_server.importing.quantise.sample_run import (
    PARITY_TEXTS,
    open_session,
    run_together,
    tokenise,
)

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


def _saved(
    folder: Path,
    *,
    family: TinyFamily = TINY_FAMILIES[0],
    tokenizer_config: dict[str, Any] | None = None,
    prompts: dict[str, str] | None = None,
    tokenizer: Any = None,
    **pooling: Any,
) -> Path:
    """Save a checkpoint as sentence-transformers does, mean pooling unless `pooling` says other."""
    library = importlib.import_module("sentence_transformers")
    modules = importlib.import_module("sentence_transformers.sentence_transformer.modules")
    base = _plain_checkpoint(family, folder / "base", tokenizer, tokenizer_config or {})
    chain = [modules.Transformer(str(base)), modules.Pooling(HIDDEN, **pooling)]
    model = library.SentenceTransformer(modules=chain, prompts=prompts)
    model.save(str(folder / "saved"))
    _change(folder / "saved" / "tokenizer_config.json", **(tokenizer_config or {}))
    return folder / "saved"


def _plain_checkpoint(
    family: TinyFamily, folder: Path, tokenizer: Any, tokenizer_config: dict[str, Any]
) -> Path:
    transformers = importlib.import_module("transformers")
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(dict(family.config)), encoding="utf-8")
    save_file(family.tensors(), folder / "model.safetensors", metadata={"format": "pt"})
    special = {"pad_token": "<pad>", "unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}
    if tokenizer is not None:
        special = {name: f"[{name[:3].upper()}]" for name in ("pad_token", "unk_token")}
        special |= {"cls_token": "[CLS]", "sep_token": "[SEP]"}
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer or multilingual_tokenizer(), model_max_length=128, **special
    ).save_pretrained(folder)
    _change(folder / "tokenizer_config.json", **tokenizer_config)
    return folder


def _change(path: Path, **values: Any) -> None:
    old = json.loads(path.read_text("utf-8")) if path.exists() else {}
    path.write_text(json.dumps(old | values), encoding="utf-8")


MANY_TEXTS = (*TEXTS, *PARITY_TEXTS[:10], " ".join(PARITY_TEXTS))
"""Twenty, the last of them longer than any limit here."""


def _same_vectors(source: Path, tmp_path: Path, *, prompt: str = "") -> None:
    """Compare what a server gives with what sentence-transformers gives."""
    library = importlib.import_module("sentence_transformers")
    exact = library.SentenceTransformer(str(source), local_files_only=True).encode(
        list(MANY_TEXTS), prompt=prompt, convert_to_numpy=True, batch_size=1
    )
    import_model(source=source, repository=tmp_path / "models", name="tiny")
    np.testing.assert_allclose(
        served(tmp_path / "models", MANY_TEXTS, prompt=prompt), exact, atol=1e-4
    )


@pytest.mark.parametrize("name", ["bert", "roberta", "xlm-roberta", "distilbert", "mpnet"])
def test_a_file_of_its_own_kin_limits_the_length(name: str, tmp_path: Path) -> None:
    family = next(family for family in TINY_FAMILIES if family.name == name)
    source = _saved(tmp_path, family=family)
    kin = {"mpnet": "xlnet"}.get(name, name)
    settings = source / "sentence_bert_config.json"
    settings.rename(source / f"sentence_{kin}_config.json")
    _change(source / f"sentence_{kin}_config.json", max_seq_length=16)

    _same_vectors(source, tmp_path)


def test_more_than_the_positions_is_clamped(tmp_path: Path) -> None:
    source = _saved(tmp_path, family=TINY_FAMILIES[1], tokenizer_config={"model_max_length": 1000})
    _change(source / "sentence_bert_config.json", max_seq_length=160)
    card = import_model(source=source, repository=tmp_path / "models", name="tiny")

    assert card.max_tokens == 158
    assert "max_seq_length 160 exceeds" in str(card.assumed)


@pytest.mark.parametrize("side", ["left", "right"])
def test_the_side_that_is_cut(side: str, tmp_path: Path) -> None:
    source = _saved(tmp_path, tokenizer_config={"truncation_side": side})
    _change(source / "sentence_bert_config.json", max_seq_length=16)

    _same_vectors(source, tmp_path)


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"do_lower_case": True},
        {"do_lower_case": False},
        {"do_lower_case": False, "strip_accents": True},
        {"do_lower_case": True, "strip_accents": False, "tokenize_chinese_chars": False},
    ],
)
@pytest.mark.parametrize("lowercase", [True, False])
@pytest.mark.parametrize("kind", ["BertTokenizer", "BertTokenizerFast", "PreTrainedTokenizerFast"])
def test_case_and_accents_are_those_of_the_tokenizers_class(
    kind: str, lowercase: bool, config: dict[str, bool], tmp_path: Path
) -> None:
    source = _saved(tmp_path, tokenizer=word_piece_tokenizer(lowercase=lowercase))
    stated = json.loads((source / "tokenizer_config.json").read_text("utf-8"))
    stated = {key: value for key, value in stated.items() if key not in ("backend",)}
    (source / "tokenizer_config.json").write_text(
        json.dumps(stated | {"tokenizer_class": kind} | config), encoding="utf-8"
    )
    word_piece_tokenizer(lowercase=lowercase).save(str(source / "tokenizer.json"))

    _same_vectors(source, tmp_path)


def test_lower_casing_of_the_module_itself(tmp_path: Path) -> None:
    source = _saved(tmp_path)
    _change(source / "sentence_bert_config.json", do_lower_case=True)

    _same_vectors(source, tmp_path)


@pytest.mark.parametrize("mode", POOLINGS)
@pytest.mark.parametrize("prompt", ["", "Where is: "])
def test_a_prompt_that_is_left_out_of_the_pooling(mode: str, prompt: str, tmp_path: Path) -> None:
    mode = {"mean_sqrt_len": "mean_sqrt_len_tokens"}.get(mode, mode)
    source = _saved(tmp_path, include_prompt=False, pooling_mode=mode)
    _change(source / "config_sentence_transformers.json", prompts={"query": None, "q": prompt})

    _same_vectors(source, tmp_path, prompt=prompt)


@pytest.mark.parametrize(
    "head", ["ForSequenceClassification", "ForMaskedLM", "ForTokenClassification", "ForPreTraining"]
)
@of_every_family()
def test_a_task_head_is_left_out(family: TinyFamily, head: str, tmp_path: Path) -> None:
    transformers = importlib.import_module("transformers")
    kind = str(family.config["architectures"][0]).removesuffix("Model")  # type: ignore[index]
    whole = getattr(transformers, f"{kind}{head}", None)
    if whole is None:
        pytest.skip(f"there is no {kind}{head}")
    source = _saved(tmp_path, family=family)
    config = transformers.AutoConfig.from_pretrained(source)
    encoder = transformers.AutoModel.from_pretrained(source)
    model = whole(config)
    getattr(model, model.base_model_prefix).load_state_dict(encoder.state_dict(), strict=False)
    model.save_pretrained(source)

    _same_vectors(source, tmp_path)


ACTIVATIONS = (
    "gelu gelu_fast gelu_new gelu_accurate gelu_10 gelu_python_tanh quick_gelu relu relu2 relu6 "
    "leaky_relu silu mish hardswish sigmoid tanh linear"
)


@pytest.mark.parametrize("name", ACTIVATIONS.split())
def test_an_activation(name: str, tmp_path: Path) -> None:
    family = TINY_FAMILIES[0]
    config = {**family.config, "hidden_act": name}
    del config["architectures"]
    source = _saved(tmp_path, family=replace(family, config=config))
    tensors = load_file(source / "model.safetensors")
    renamed = {
        key.replace("Norm.weight", "Norm.gamma").replace("Norm.bias", "Norm.beta"): value
        for key, value in tensors.items()
    }
    save_file(renamed, source / "model.safetensors", metadata={"format": "pt"})

    _same_vectors(source, tmp_path)
