"""What the files beside the weights say is obeyed, or refused by the file's and the key's name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.importing.served_vectors import served
from tests.importing.tiny_bert import CONFIG, CheckpointFiles, random_tensors, token_states
from tests.text_models import text_models
from vecserve_server.engines.registry import shipped_engines
from vecserve_server.errors import ModelError
from vecserve_server.importing.importer import import_model
from vecserve_server.importing.sources.checkpoint import read_checkpoint
from vecserve_server.model_files.card import ModelCard
from vecserve_server.model_files.config_file import read_config_file
from vecserve_server.model_files.encoder_config import encoder_config

TEXT = "The cat sat on the mat while the rain fell"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return CheckpointFiles().write(tmp_path / "source")


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    return tmp_path / "repository"


def change(path: Path, **values: object) -> None:
    old = json.loads(path.read_text("utf-8")) if path.exists() else {}
    path.write_text(json.dumps({**old, **values}), encoding="utf-8")


def fp32(source: Path, repository: Path, name: str = "tiny", **options: Any) -> ModelCard:
    return import_model(
        source=source, repository=repository, name=name, precisions=("fp32",), **options
    )


def without(config: dict[str, Any], *keys: str, **more: Any) -> dict[str, Any]:
    return {key: value for key, value in config.items() if key not in keys} | more


@pytest.mark.parametrize(
    "config",
    [
        without(CONFIG, "architectures", model_type="bert"),
        without(CONFIG, "architectures", "hidden_act", "layer_norm_eps", model_type="bert"),
        without(CONFIG, architectures=["BertForSequenceClassification"]),
        without(CONFIG, architectures=["BertForPreTraining"], model_type="bert"),
        without(CONFIG, architectures=["SomebodysModel"], model_type="bert"),
        without(CONFIG, is_decoder=False, quantization_config=None, pruned_heads={}),
    ],
)
@pytest.mark.parametrize("prefix", ["", "bert."])
@pytest.mark.parametrize("older_names", [False, True])
def test_one_encoder_is_the_same_however_it_is_written_down(
    source: Path,
    repository: Path,
    tmp_path: Path,
    config: dict[str, Any],
    prefix: str,
    older_names: bool,
) -> None:
    tensors = {f"{prefix}{name}": tensor for name, tensor in random_tensors().items()}
    tensors["classifier.weight"] = np.ones((3, 32), np.float32)
    if older_names:
        tensors = {
            name.replace("Norm.weight", "Norm.gamma").replace("Norm.bias", "Norm.beta"): tensor
            for name, tensor in tensors.items()
        }
    other = CheckpointFiles(config=config, tensors=tensors).write(tmp_path / "other")

    assert fp32(other, repository, "other").files == fp32(source, repository).files


@pytest.mark.parametrize(
    ("file", "values", "problem"),
    [
        ("config.json", {"model_type": "t5"}, r"config.json: model_type t5 .*\(supported: bert, "),
        ("config.json", {"architectures": None}, "config.json: model_type is missing"),
        ("config.json", {"is_decoder": True}, "config.json: is_decoder"),
        ("config.json", {"add_cross_attention": True}, "config.json: add_cross_attention"),
        ("config.json", {"pruned_heads": {"0": [1]}}, "config.json: pruned_heads"),
        ("config.json", {"quantization_config": {"bits": 4}}, "config.json: quantization_config"),
        ("config.json", {"auto_map": {"AutoModel": "a--b.C"}}, "config.json: auto_map"),
        ("adapter_config.json", {"r": 8}, "adapter_config.json: "),
        ("sentence_bert_config.json", {"do_lower_case": "no"}, "do_lower_case is 'no'"),
        ("sentence_bert_config.json", {"max_seq_length": 0}, "max_seq_length is 0"),
        ("sentence_bert_config.json", {"query_length": 8}, "_config.json: query_length"),
        ("sentence_bert_config.json", {"transformer_task": "fill-mask"}, "transformer_task"),
        ("sentence_bert_config.json", {"tokenizer_args": {"x": 1}}, "tokenizer_args.x"),
        ("sentence_bert_config.json", {"modality_config": {"message": {}}}, "modality_config"),
        ("tokenizer_config.json", {"split_special_tokens": True}, "_config.json: split_special"),
        ("tokenizer_config.json", {"truncation_side": "middle"}, "truncation_side is 'middle'"),
        ("config_sentence_transformers.json", {"model_type": "SparseEncoder"}, "SparseEncoder"),
        ("1_Pooling/config.json", {"include_prompt": "no"}, "1_Pooling/config.json: include_"),
        ("2_Normalize/config.json", {"module_output_name": "x"}, "2_Normalize/config.json: mod"),
    ],
)
def test_what_is_not_obeyed_is_refused_by_name(
    source: Path, repository: Path, file: str, values: dict[str, object], problem: str
) -> None:
    (source / file).parent.mkdir(exist_ok=True)
    change(source / file, **values)

    with pytest.raises(ModelError, match=problem):
        fp32(source, repository)
    assert not repository.exists() or not list(repository.iterdir())


def test_a_module_of_the_checkpoints_own_is_refused(source: Path, repository: Path) -> None:
    text = (source / "modules.json").read_text("utf-8")
    own = text.replace("sentence_transformers.models.Pooling", "custom.Pooling")
    (source / "modules.json").write_text(own, encoding="utf-8")

    with pytest.raises(ModelError, match=r"modules.json: type 'custom.Pooling' is code"):
        fp32(source, repository)


def test_a_prompt_that_is_null_is_empty(source: Path) -> None:
    settings = {"prompts": {"query": None, "title": "title: "}, "default_prompt_name": "document"}
    change(source / "config_sentence_transformers.json", **settings)

    checkpoint = read_checkpoint(source)

    assert checkpoint.prompts == {"query": "", "title": "title: ", "document": ""}
    assert checkpoint.default_prompt == "document"


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_prompts_can_be_left_out_of_the_pooling(
    source: Path, repository: Path, precision: str
) -> None:
    change(source / "1_Pooling" / "config.json", include_prompt=False)
    card = import_model(source=source, repository=repository, name="tiny")
    assert not card.include_prompt

    found = served(repository, [TEXT, ""], prompt="hello hello", precision=precision)

    tokenizer = text_models(repository).load("tiny").tokenizer
    for text, vector in zip([TEXT, ""], found, strict=True):
        ids = tokenizer.encode([f"hello hello{text}"], max_tokens=40)[0].ids
        kept = token_states(random_tensors(), list(ids))[3:].mean(axis=0)
        assert vector @ (kept / np.linalg.norm(kept)) > (0.99999 if precision == "fp32" else 0.99)


def test_a_graph_that_pools_prompts_is_not_asked_to_leave_them_out(
    source: Path, repository: Path
) -> None:
    fp32(source, repository)
    config = repository / "tiny" / "config.pbtxt"
    more = 'parameters { key: "include_prompt" value { string_value: "false" } }'
    config.write_text(f"{config.read_text('utf-8')}\n{more}\n", encoding="utf-8")

    with pytest.raises(ModelError, match='"include_prompt" is false, the model was not built'):
        text_models(repository).load("tiny")


@pytest.mark.parametrize(
    "kin", ["roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet"]
)
def test_a_file_of_any_kin_limits_the_length(source: Path, repository: Path, kin: str) -> None:
    change(source / f"sentence_{kin}_config.json", max_seq_length=16)
    (source / "sentence_bert_config.json").write_text("{}", encoding="utf-8")

    card = fp32(source, repository)

    assert card.max_tokens == 16
    assert f"sentence_{kin}_config.json" in card.source_sha256
    assert len(served(repository, [TEXT * 9] * 20)) == 20, "several in one row"


@pytest.mark.parametrize(
    ("file", "key"),
    [
        ("sentence_bert_config.json", "max_seq_length"),
        ("tokenizer_config.json", "model_max_length"),
    ],
)
def test_a_limit_beyond_the_positions_is_cut_and_said(
    source: Path, repository: Path, file: str, key: str
) -> None:
    (source / "sentence_bert_config.json").unlink()
    change(source / file, **{key: 49})

    card = fp32(source, repository)

    assert card.max_tokens == 48
    assert card.assumed == f"48 tokens: {file}: {key} 49 exceeds the encoder's positions"


def test_settings_without_modules_are_not_passed_over_in_silence(
    source: Path, repository: Path
) -> None:
    (source / "modules.json").unlink()

    card = fp32(source, repository)

    assert card.max_tokens == 48
    assert "sentence_bert_config.json is not read either" in str(card.assumed)


def test_the_side_that_texts_lose_is_the_checkpoints(source: Path, repository: Path) -> None:
    change(source / "tokenizer_config.json", truncation_side="left")
    change(source / "sentence_bert_config.json", max_seq_length=6)
    fp32(source, repository)

    config = encoder_config(
        read_config_file(repository / "tiny" / "config.pbtxt"), shipped_engines().encoder_names
    )
    assert config.truncation_side == "left"
    long, end = served(repository, [TEXT, "while the rain fell"])
    np.testing.assert_allclose(long, end, atol=1e-6)


def test_the_side_may_stand_in_the_tokenizer_itself(source: Path) -> None:
    tokenizer = json.loads((source / "tokenizer.json").read_text("utf-8"))
    tokenizer["truncation"] = {
        "direction": "Left", "max_length": 4, "strategy": "LongestFirst", "stride": 0
    }  # fmt: skip
    (source / "tokenizer.json").write_text(json.dumps(tokenizer), encoding="utf-8")

    assert read_checkpoint(source).truncation_side == "left"


def test_files_may_begin_with_a_byte_order_mark(source: Path, repository: Path) -> None:
    plain = fp32(source, repository)
    for path in [*source.rglob("*.json"), source / "README.md"]:
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())

    card = fp32(source, repository, "marked")

    assert (card.files, card.licence) == (plain.files, "mit")
