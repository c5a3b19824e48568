"""What a checkpoint's folder may look like, and what is said where it does not."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from tests.importing.multilingual_tokenizer import TEXTS, multilingual_tokenizer
from tests.importing.test_families import embed, expected
from tests.importing.tiny_bert import HIDDEN, CheckpointFiles, random_tensors
from tests.importing.tiny_families import POOLINGS, TINY_FAMILIES, sequences
from vecserve_server.encoding.tokenizer import TextTokenizer
from vecserve_server.errors import ModelError
from vecserve_server.importing.graph.head import Dense, Normalise
from vecserve_server.importing.importer import import_model
from vecserve_server.importing.quantise.sample_run import open_session, run_together, tokenise
from vecserve_server.importing.sources.checkpoint import read_checkpoint
from vecserve_server.importing.sources.tensors import weight_files
from vecserve_server.model_files.config_file import read_config_file


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return CheckpointFiles().write(tmp_path / "source")


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    return tmp_path / "repository"


def change(path: Path, **values: object) -> None:
    old = json.loads(path.read_text("utf-8")) if path.exists() else {}
    path.write_text(json.dumps({**old, **values}), encoding="utf-8")


def chain(source: Path, *modules: tuple[str, str]) -> None:
    listed = [{"type": f"sentence_transformers.models.{kind}", "path": p} for kind, p in modules]
    (source / "modules.json").write_text(json.dumps(listed), encoding="utf-8")


def parameters(repository: Path, name: str = "tiny") -> dict[str, str]:
    proto = read_config_file(repository / name / "config.pbtxt")
    return {key: value.string_value for key, value in proto.parameters.items()}


def test_a_plain_transformers_folder_is_pooled_by_mean(source: Path, repository: Path) -> None:
    for name in ("modules.json", "sentence_bert_config.json", "1_Pooling/config.json"):
        (source / name).unlink()
    change(source / "tokenizer_config.json", model_max_length=32)

    card = import_model(source=source, repository=repository, name="tiny")

    assert (card.pooling, card.normalise, card.max_tokens) == ("mean", False, 32)
    assert card.assumed == "mean pooling, not normalised: the checkpoint has no modules.json"
    assert parameters(repository)["normalise"] == "false"


@pytest.mark.parametrize("stated", [10**30, 512])
def test_a_tokenizer_limit_beyond_the_positions_does_not_count(
    source: Path, repository: Path, stated: int
) -> None:
    (source / "sentence_bert_config.json").unlink()
    change(source / "tokenizer_config.json", model_max_length=stated)

    assert import_model(source=source, repository=repository, name="tiny").max_tokens == 48


def test_max_length_is_held_against_the_positions(source: Path, repository: Path) -> None:
    card = import_model(source=source, repository=repository, name="tiny", max_length=48)
    assert card.max_tokens == 48

    with pytest.raises(ModelError, match="max_length is 49, the checkpoint has positions for 48"):
        import_model(source=source, repository=repository, name="other", max_length=49)


@pytest.mark.parametrize(
    ("settings", "poolings"),
    [
        ({"pooling_mode": "lasttoken"}, ("lasttoken",)),
        ({"pooling_mode": ["mean_sqrt_len_tokens", "cls"]}, ("mean_sqrt_len", "cls")),
        (
            {"pooling_mode_weightedmean_tokens": True, "pooling_mode_cls_token": True},
            ("cls", "mean", "weightedmean"),
        ),
        ({"pooling_mode_lasttoken": True, "pooling_mode_mean_tokens": False}, ("lasttoken",)),
    ],
)
def test_poolings_are_read_in_their_order(
    source: Path, settings: Mapping[str, object], poolings: tuple[str, ...]
) -> None:
    change(source / "1_Pooling" / "config.json", **settings)

    assert read_checkpoint(source).modules.head.poolings == poolings


def test_dense_and_normalise_modules_are_read_in_their_order(source: Path) -> None:
    write_dense(source / "2_Dense", activation="torch.nn.modules.activation.GELU")
    chain(
        source,
        ("Transformer", ""),
        ("Pooling", "1_Pooling"),
        ("Normalize", "9"),
        ("Dense", "2_Dense"),
        ("Dropout", "8"),
        ("Normalize", "9"),
    )

    checkpoint = read_checkpoint(source)

    first, second = checkpoint.modules.head.steps
    assert isinstance(first, Normalise)
    assert isinstance(second, Dense)
    assert (second.activation, second.weight.shape) == ("gelu", (8, HIDDEN))
    assert checkpoint.modules.head.normalise
    assert "2_Dense/model.safetensors" in checkpoint.sha256_by_file()


def write_dense(folder: Path, *, activation: str, **tensors: NDArray[Any]) -> None:
    folder.mkdir()
    weight = np.random.RandomState(0).standard_normal((8, HIDDEN)).astype(np.float32)
    bias = np.zeros(8, np.float32)
    save_file(
        {"linear.weight": weight, "linear.bias": bias} | tensors, folder / "model.safetensors"
    )
    change(folder / "config.json", activation_function=activation)


@pytest.mark.parametrize(
    ("activation", "tensors", "problem"),
    [
        (
            "torch.nn.Softmax",
            {},
            r"Softmax is not supported .*: Identity, Tanh",
        ),
        ("torch.nn.Tanh", {"linear.bias": np.zeros(7, np.float32)}, r"shape \[7\], expected \[8\]"),
        (
            "torch.nn.Tanh",
            {"linear.weight": np.zeros((8, 3), np.float32)},
            "takes 3 inputs, it gets 32",
        ),
        (
            "torch.nn.Tanh",
            {"linear.weight": np.zeros(8, np.float32)},
            r"weight \[N, K\] is missing",
        ),
    ],
)
def test_a_dense_module_that_cannot_be_built_is_named(
    source: Path,
    repository: Path,
    activation: str,
    tensors: dict[str, NDArray[Any]],
    problem: str,
) -> None:
    write_dense(source / "2_Dense", activation=activation, **tensors)
    chain(source, ("Transformer", ""), ("Pooling", "1_Pooling"), ("Dense", "2_Dense"))

    with pytest.raises(ModelError, match=problem):
        import_model(source=source, repository=repository, name="tiny")
    assert not repository.exists()


def shard(source: Path, shards: int = 3) -> None:
    """Split the weights as transformers does for a large model."""
    tensors = load_file(source / "model.safetensors")
    (source / "model.safetensors").unlink()
    weight_map: dict[str, str] = {}
    for i, names in enumerate(np.array_split(sorted(tensors), shards)):
        file = f"model-{i + 1:05}-of-{shards:05}.safetensors"
        save_file({str(name): tensors[str(name)] for name in names}, source / file)
        weight_map |= {str(name): file for name in names}
    change(source / "model.safetensors.index.json", weight_map=weight_map)


def test_sharded_weights_are_the_same_weights(source: Path, repository: Path) -> None:
    whole = import_model(source=source, repository=repository, name="whole")
    shard(source)

    card = import_model(source=source, repository=repository, name="sharded")

    assert card.files == whole.files
    assert len([name for name in card.source_sha256 if name.endswith(".safetensors")]) == 3


def test_a_missing_shard_is_named(source: Path, repository: Path) -> None:
    shard(source)
    (source / "model-00002-of-00003.safetensors").unlink()

    with pytest.raises(ModelError, match=r"model-00002-of-00003\.safetensors is missing"):
        import_model(source=source, repository=repository, name="tiny")


@pytest.mark.parametrize(
    "weight_map", [None, {}, ["a"], {"tensor": "../model.safetensors"}, {"tensor": "/etc/passwd"}]
)
def test_a_damaged_index_is_named(source: Path, repository: Path, weight_map: object) -> None:
    shard(source)
    change(source / "model.safetensors.index.json", weight_map=weight_map)

    with pytest.raises(ModelError, match=r"model\.safetensors\.index\.json: "):
        import_model(source=source, repository=repository, name="tiny")


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float64])
def test_other_float_types_become_float32(tmp_path: Path, dtype: Any) -> None:
    tensors = {name: tensor.astype(dtype) for name, tensor in random_tensors().items()}
    save_file(tensors, tmp_path / "model.safetensors")

    read = weight_files(tmp_path).read()

    for name, tensor in tensors.items():
        assert read[name].dtype == np.float32
        np.testing.assert_array_equal(read[name], tensor.astype(np.float32))


def test_integers_are_no_weights_and_other_types_are_refused(tmp_path: Path) -> None:
    tensors: dict[str, NDArray[Any]] = {
        "embeddings.position_ids": np.arange(4),
        "weight": np.ones(2, np.float32),
    }
    save_file(tensors, tmp_path / "model.safetensors")
    assert weight_files(tmp_path).read().keys() == {"weight"}

    save_file({"w": np.ones(2, ml_dtypes.float8_e4m3fn)}, tmp_path / "model.safetensors")
    with pytest.raises(ModelError, match=r"tensor w is F8_E4M3 \(supported: BF16, F16, F32, F64\)"):
        weight_files(tmp_path)


@pytest.mark.parametrize("name", ["sentencepiece.bpe.model", "spiece.model", "vocab.txt"])
def test_a_slow_tokenizer_alone_is_named_with_the_way_out(
    source: Path, repository: Path, name: str
) -> None:
    (source / "tokenizer.json").rename(source / name)

    with pytest.raises(ModelError, match=rf"{name} alone is not read; .*save_pretrained"):
        import_model(source=source, repository=repository, name="tiny")
    assert not repository.exists()


def test_pickled_weights_are_named_with_the_way_out(source: Path, repository: Path) -> None:
    (source / "model.safetensors").rename(source / "pytorch_model.bin")

    with pytest.raises(ModelError, match=r"pytorch_model\.bin is a pickle.*safe_serialization"):
        import_model(source=source, repository=repository, name="tiny")


def test_an_unsupported_architecture_lists_the_supported(source: Path, repository: Path) -> None:
    change(source / "config.json", architectures=["T5Model"])

    with pytest.raises(ModelError, match="T5Model is not supported") as refused:
        import_model(source=source, repository=repository, name="tiny")
    for name in ("Bert", "Roberta", "XLMRoberta", "MPNet", "DistilBert", "ModernBert"):
        assert f"{name}Model" in str(refused.value)
    assert not repository.exists()


def test_a_model_larger_than_memory_is_refused_before_it_is_read(
    source: Path, repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read(_: object) -> None:
        raise AssertionError("the weights were read")

    monkeypatch.setattr("vecserve_server.importing.sources.tensors.WeightFiles.read", read)

    with pytest.raises(ModelError, match=r"needs about \S+ GiB .* 0\.1 GiB are available"):
        import_model(
            source=source, repository=repository, name="tiny", memory_limit_bytes=100_000_000
        )
    assert not repository.exists()


def test_lower_casing_moves_into_the_tokenizer(source: Path, repository: Path) -> None:
    change(source / "sentence_bert_config.json", do_lower_case=True)

    import_model(source=source, repository=repository, name="tiny")

    file = repository / "tiny" / "1" / "tokenizer.json"
    upper, lower = TextTokenizer(file.read_bytes()).encode(["HELLO", "hello"], max_tokens=9)
    np.testing.assert_array_equal(upper.ids, lower.ids)
    assert len(set(lower.ids)) == 3, "the word is known"


def test_a_multilingual_checkpoint_from_text_to_vector(tmp_path: Path, repository: Path) -> None:
    family = next(family for family in TINY_FAMILIES if family.name == "xlm-roberta")
    source = tmp_path / "xlm-roberta"
    source.mkdir()
    change(source / "config.json", **family.config)
    save_file(family.tensors(), source / "model.safetensors")
    tokenizer = multilingual_tokenizer()
    tokenizer.save(str(source / "tokenizer.json"))

    card = import_model(source=source, repository=repository, name="tiny")

    assert (card.architecture, card.max_tokens) == ("XLMRobertaModel", 158)
    tokenizer_json = (repository / "tiny" / "1" / "tokenizer.json").read_bytes()
    ids = tokenise(tokenizer_json, TEXTS, card.max_tokens)
    for text, found in zip(TEXTS, ids, strict=True):
        assert list(found) == tokenizer.encode(text).ids
    embedding, norm = run_together(open_session(repository / "tiny" / "1" / "model.onnx"), ids)
    head = read_checkpoint(source).modules.head
    np.testing.assert_allclose(embedding * norm[:, None], embed(family, head, ids), atol=1e-5)
    exact = expected(family)[POOLINGS.index("mean")]
    np.testing.assert_allclose(embed(family, head, sequences()), exact, atol=1e-4)
