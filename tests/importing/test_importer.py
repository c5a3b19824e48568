"""Imports: whole and on the card, or nothing at all."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import pytest

from tests.importing.tiny_bert import HIDDEN, CheckpointFiles
from tests.text_models import text_models
from vecserve_server.engines.openvino.runtime import openvino_is_installed
from vecserve_server.errors import AlreadyExists, InvalidArgument, ModelError, StorageError
from vecserve_server.importing.importer import Origin, import_model
from vecserve_server.importing.quantise.parity import check_parity
from vecserve_server.importing.staging import RETIRED, staged_folder, sweep
from vecserve_server.importing.verify import verify_model
from vecserve_server.model_files.card import Parity, read_card
from vecserve_server.model_files.repository import ModelRepository


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return CheckpointFiles().write(tmp_path / "source")


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    return tmp_path / "repository"


def contents(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def test_an_import_makes_a_model_that_loads(source: Path, repository: Path) -> None:
    card = import_model(source=source, repository=repository, name="tiny")

    version = {"card.json", "model.int8.onnx", "model.onnx", "tokenizer.json"}
    if openvino_is_installed():
        version |= {"model.int8.bin", "model.int8.xml"}
    assert set(contents(repository / "tiny")) == {
        "1",
        "config.pbtxt",
        *(f"1/{file}" for file in version),
    }
    assert card == read_card(repository / "tiny" / "1")
    assert (card.architecture, card.pooling, card.dim) == ("BertModel", "mean", HIDDEN)
    assert (card.max_tokens, card.licence, card.source) == (40, "mit", "source")
    assert set(card.files) == version - {"card.json"}
    for precision in ("fp32", "int8"):
        model = text_models(repository).load("tiny", precision=precision)
        ids = [item.ids for item in model.tokenizer.encode(["hello", "a"], max_tokens=40)]
        assert model.encoder.run(ids).vectors.shape == (2, HIDDEN)


def test_the_same_checkpoint_gives_the_same_files(source: Path, repository: Path) -> None:
    cards = [import_model(source=source, repository=repository, name=name) for name in "ab"]

    assert cards[0].files == cards[1].files


def test_parity_is_measured_for_each_precision(source: Path, repository: Path) -> None:
    card = import_model(source=source, repository=repository, name="tiny")

    assert card.parity["fp32"].batch_cosine_min >= 0.999999
    assert 0.99 <= card.parity["int8"].cosine_mean < 1


def test_prompts_reach_the_configuration(tmp_path: Path, repository: Path) -> None:
    settings = {"prompts": {"query": "query: ", "passage": ""}, "default_prompt_name": "query"}
    source = CheckpointFiles(sentence_transformers=settings).write(tmp_path / "prompted")

    import_model(source=source, repository=repository, name="tiny", precisions=("fp32",))

    config = text_models(repository).load("tiny").config
    assert config.prompts == settings["prompts"]
    assert (config.default_prompt, config.precision) == ("query", "fp32")


def test_progress_rises_to_the_end(source: Path, repository: Path) -> None:
    steps: list[tuple[str, float]] = []

    import_model(
        source=source,
        repository=repository,
        name="tiny",
        progress=lambda step, fraction: steps.append((step, fraction)),
    )

    fractions = [fraction for _, fraction in steps]
    assert fractions == sorted(fractions)
    assert (fractions[0], steps[-1]) == (0.0, ("done", 1.0))


def test_a_second_import_needs_replace(source: Path, repository: Path) -> None:
    import_model(source=source, repository=repository, name="tiny", precisions=("fp32",))
    with pytest.raises(AlreadyExists, match="tiny"):
        import_model(source=source, repository=repository, name="tiny")

    config = repository / "tiny" / "config.pbtxt"
    config.write_text("# the operator's own", encoding="utf-8")
    import_model(source=source, repository=repository, name="tiny", replace=True)

    assert config.read_text("utf-8") == "# the operator's own"
    assert (repository / "tiny" / "1" / "model.int8.onnx").is_file()
    assert contents(repository)[0] == "tiny", "nothing staged is left"


def test_a_missing_configuration_is_written_beside_a_new_version(
    source: Path, repository: Path
) -> None:
    (repository / "tiny").mkdir(parents=True)
    import_model(source=source, repository=repository, name="tiny")

    assert ModelRepository(repository).names() == ["tiny"]


def change(source: Path, file: str, **values: object) -> None:
    path = source / file
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}), encoding="utf-8")


@pytest.mark.parametrize(
    "file", ["config.json", "tokenizer.json", "model.safetensors", "1_Pooling/config.json"]
)
def test_a_missing_file_is_named(source: Path, repository: Path, file: str) -> None:
    (source / file).unlink()

    with pytest.raises(ModelError, match=f"{Path(file).name} is missing"):
        import_model(source=source, repository=repository, name="tiny")
    assert not repository.exists() or contents(repository) == []


@pytest.mark.parametrize(
    "file",
    ["modules.json", "config.json", "tokenizer.json", "model.safetensors", "1_Pooling/config.json"],
)
@pytest.mark.parametrize("content", [b"", b"\xff\x00garbage", b"3"])
def test_a_damaged_file_is_named(source: Path, repository: Path, file: str, content: bytes) -> None:
    (source / file).write_bytes(content)

    with pytest.raises(ModelError, match=Path(file).name):
        import_model(source=source, repository=repository, name="tiny")
    assert not repository.exists() or contents(repository) == []


def test_a_cut_off_weights_file_is_named(source: Path, repository: Path) -> None:
    weights = source / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])

    with pytest.raises(ModelError, match=r"model\.safetensors: not a readable"):
        import_model(source=source, repository=repository, name="tiny")


def test_another_hash_than_expected_is_refused(source: Path, repository: Path) -> None:
    expected = {"model.safetensors": "0" * 64}

    with pytest.raises(ModelError, match=r"model\.safetensors: sha256 is .* expected 0000"):
        import_model(source=source, repository=repository, name="tiny", expected_sha256=expected)


@pytest.mark.parametrize(
    ("file", "values", "problem"),
    [
        ("1_Pooling/config.json", {"pooling_mode_median_tokens": True}, "pooling mode 'median'"),
        ("sentence_bert_config.json", {"max_seq_length": "many"}, "max_seq_length"),
        ("config_sentence_transformers.json", {"prompts": {"q": 1}}, "prompt"),
        ("config_sentence_transformers.json", {"default_prompt_name": "x"}, "names no prompt"),
        ("config.json", {"architectures": ["T5Model"]}, "T5Model is not supported"),
    ],
)
def test_an_unsupported_setting_is_named(
    source: Path, repository: Path, file: str, values: dict[str, object], problem: str
) -> None:
    change(source, file, **values)

    with pytest.raises(ModelError, match=problem):
        import_model(source=source, repository=repository, name="tiny")
    assert not repository.exists() or contents(repository) == []


@pytest.mark.parametrize(
    ("modules", "problem"),
    [
        (["Transformer", "Pooling", "LSTM"], "LSTM is not supported"),
        (["Transformer", "Pooling", "Pooling"], "Pooling is not supported"),
        (["Transformer"], "Pooling is missing"),
    ],
)
def test_an_unsupported_module_is_named(
    tmp_path: Path, repository: Path, modules: list[str], problem: str
) -> None:
    source = CheckpointFiles(modules=modules).write(tmp_path / "modules")

    with pytest.raises(ModelError, match=problem):
        import_model(source=source, repository=repository, name="tiny")


@pytest.mark.parametrize("name", ["", "..", ".hidden", "a/b", "a b", "x" * 129])
def test_a_name_that_could_escape_is_refused(source: Path, repository: Path, name: str) -> None:
    with pytest.raises(InvalidArgument, match="name"):
        import_model(source=source, repository=repository, name=name)


def test_an_unknown_precision_is_refused(source: Path, repository: Path) -> None:
    with pytest.raises(InvalidArgument, match="fp8"):
        import_model(source=source, repository=repository, name="tiny", precisions=("fp8",))


@pytest.mark.parametrize("found", [(0.98, 0.98), (0.995, 0.96), (float("nan"), float("nan"))])
def test_a_precision_below_the_floor_is_refused(found: tuple[float, float]) -> None:
    parity = Parity(cosine_mean=found[0], cosine_min=found[1], batch_cosine_min=1.0)

    with pytest.raises(ModelError, match="int8 is too far from fp32"):
        check_parity({"int8": parity})


def test_weights_that_are_not_numbers_are_refused(tmp_path: Path, repository: Path) -> None:
    files = CheckpointFiles()
    files.tensors["encoder.layer.0.output.dense.bias"][3] = np.nan
    source = files.write(tmp_path / "nan")

    with pytest.raises(ModelError, match=r"tensor encoder\.layer\.0\.output\.dense\.bias holds"):
        import_model(source=source, repository=repository, name="tiny")


@contextmanager
def largest_file(size_bytes: int) -> Iterator[None]:
    """Make every write beyond `size_bytes` fail, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("size_bytes", [0, 1_000, 20_000, 60_000])
def test_a_full_disk_leaves_the_repository_as_it_was(
    source: Path, repository: Path, size_bytes: int
) -> None:
    import_model(source=source, repository=repository, name="old", precisions=("fp32",))
    before = contents(repository)

    for name in ("old", "new"):
        with largest_file(size_bytes), pytest.raises(StorageError, match=f"importing {name}"):
            import_model(source=source, repository=repository, name=name, replace=True)

    assert contents(repository) == before
    assert verify_model(repository, "old") == []


@pytest.mark.parametrize("call", range(1, 12))
def test_an_io_error_at_any_fsync_or_rename_leaves_a_whole_model(
    source: Path, repository: Path, call: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    import_model(source=source, repository=repository, name="tiny", precisions=("fp32",))
    calls = iter(range(1, 1000))

    def failing(real: object) -> object:
        def maybe(*arguments: object) -> object:
            if next(calls) == call:
                raise OSError(5, "Input/output error")
            return real(*arguments)  # type: ignore[operator]

        return maybe

    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", failing(__import__("os").fsync))
        patch.setattr(Path, "rename", failing(Path.rename))
        with suppress(StorageError):
            import_model(source=source, repository=repository, name="tiny", replace=True)

    assert verify_model(repository, "tiny") == []
    assert [path.name for path in repository.iterdir()] == ["tiny"]
    assert {path.name for path in (repository / "tiny").iterdir()} == {"1", "config.pbtxt"}


def test_verify_names_what_differs_from_the_card(source: Path, repository: Path) -> None:
    import_model(source=source, repository=repository, name="tiny")
    version = repository / "tiny" / "1"
    assert verify_model(repository, "tiny") == []

    (version / "model.onnx").write_bytes(b"other")
    (version / "tokenizer.json").unlink()
    (version / "extra.txt").write_text("?")

    found = {finding.file: finding.problem for finding in verify_model(repository, "tiny")}
    assert set(found) == {"model.onnx", "tokenizer.json", "extra.txt"}
    assert found["tokenizer.json"] == "is missing"
    assert found["extra.txt"] == "is not on the card"
    assert found["model.onnx"].startswith("sha256 is ")

    (version / "card.json").unlink()
    with pytest.raises(ModelError, match=r"card\.json is missing"):
        verify_model(repository, "tiny")


def test_importing_and_encoding_open_no_socket(source: Path, repository: Path) -> None:
    script = f"""
import os, pathlib, sys
opened = []
sys.addaudithook(lambda event, _: opened.append(event) if event.startswith("socket.") else None)
from vecserve_server.importing.importer import import_model
repository = pathlib.Path({str(repository)!r})
import_model(source=pathlib.Path({str(source)!r}), repository=repository, name="tiny")
from vecserve_server.encoding.text_model import TextModelLoader
from vecserve_server.engines.registry import shipped_engines
model = TextModelLoader(repository, engines=shipped_engines()).load("tiny")
model.encoder.run([item.ids for item in model.tokenizer.encode(["hello"], max_tokens=40)])
links = [os.path.realpath(f"/proc/self/fd/{{fd}}") for fd in os.listdir("/proc/self/fd")]
print(opened + [link for link in links if "socket:" in link])
"""
    run = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    assert run.stdout.strip() == "[]"


def test_what_a_crashed_import_left_is_swept_away(source: Path, repository: Path) -> None:
    script = f"""
import os, pathlib
from vecserve_server.importing import importer
importer.measure = lambda *_: os._exit(9)
source, repository = pathlib.Path({str(source)!r}), pathlib.Path({str(repository)!r})
importer.import_model(source=source, repository=repository, name="tiny")
"""
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 9
    assert [path.name[:8] for path in repository.iterdir()] == [".import-"]

    import_model(source=source, repository=repository, name="other", precisions=("fp32",))

    assert [path.name for path in repository.iterdir()] == ["other"]


def test_a_version_that_a_crash_took_away_is_put_back(source: Path, repository: Path) -> None:
    import_model(source=source, repository=repository, name="tiny", precisions=("fp32",))
    with staged_folder(repository / "tiny", RETIRED) as aside:
        crashed = aside.with_name(".retired-crashed")
    crashed.mkdir()
    (repository / "tiny" / "1").rename(crashed / "1")

    with pytest.raises(AlreadyExists, match="tiny"):
        import_model(source=source, repository=repository, name="tiny")

    assert verify_model(repository, "tiny") == []
    assert {path.name for path in (repository / "tiny").iterdir()} == {"1", "config.pbtxt"}


def test_the_folder_of_an_import_that_runs_is_left_alone(repository: Path) -> None:
    with staged_folder(repository) as staged:
        sweep(repository)
        assert staged.is_dir()
    sweep(repository)
    assert list(repository.iterdir()) == []


def test_the_card_says_where_it_comes_from_and_how_it_was_measured(
    source: Path, repository: Path
) -> None:
    card = import_model(
        source=source,
        repository=repository,
        name="tiny",
        origin=Origin(source="hf:org/tiny", revision="abc"),
    )

    assert (card.source, card.revision, card.licence) == ("hf:org/tiny", "abc", "mit")
    assert set(card.source_sha256) == {
        "1_Pooling/config.json",
        "config.json",
        "model.safetensors",
        "config_sentence_transformers.json",
        "modules.json",
        "sentence_bert_config.json",
        "tokenizer.json",
    }
    assert card.calibration == "the 24 texts that ship with the exporter"
    assert set(card.speed_texts_per_s) == set(card.parity) >= {"fp32", "int8"}
    assert min(card.speed_texts_per_s.values()) > 0
