"""Which folders of a repository are models, and what is said of the others."""

from __future__ import annotations

import codecs
import logging
import os
from pathlib import Path

import pytest

from tests.serving.controlled_models import controlled
from tests.serving.tiny_onnx import add_version, config_text
from vecserve_server.domain.models import ModelState
from vecserve_server.errors import InvalidArgument, ModelError, NotFound
from vecserve_server.model_files.model_folders import check_name, scan, unusable


@pytest.fixture
def strays(tmp_path: Path) -> dict[str, str]:
    """A repository with one model, and why each of its other folders is none."""
    add_version(tmp_path, "_x", 1)
    for name in ("a b", "größe", ".x"):
        (tmp_path / name / "1").mkdir(parents=True)
        (tmp_path / name / "config.pbtxt").write_text(config_text(name))
    (tmp_path / "only-v1" / "v1").mkdir(parents=True)
    (tmp_path / "zero" / "0").mkdir(parents=True)
    (tmp_path / "empty").mkdir()
    (tmp_path / ".cache" / "1").mkdir(parents=True)
    (tmp_path / ".git").mkdir()
    (tmp_path / "README.md").write_text("not a folder")
    name_rule = "the folder's name cannot be served: a model's name is 1 to 128 of"
    return {
        ".x": name_rule,
        "a b": name_rule,
        "größe": name_rule,
        "only-v1": "neither config.pbtxt nor a version: version folders are named 1, 2, 3 ... "
        "(found: v1)",
        "zero": "(found: 0)",
        "empty": "(found: none)",
    }


def test_every_folder_that_is_no_model_has_its_reason(
    tmp_path: Path, strays: dict[str, str]
) -> None:
    found = unusable(tmp_path)

    assert set(scan(tmp_path)) == {"_x"}
    assert found.keys() == strays.keys()
    for name, reason in strays.items():
        assert reason in found[name]


def test_a_name_that_is_no_text_can_be_told(tmp_path: Path) -> None:
    (tmp_path / os.fsdecode(b"caf\xe9")).mkdir()

    assert list(unusable(tmp_path)) == ["caf\\udce9"]
    assert unusable(tmp_path / "nowhere") == {}


async def test_they_stand_in_the_index_and_once_in_the_log(
    tmp_path: Path, strays: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, logger="vecserve"):
        async with controlled(tmp_path, mode="none") as control:
            entries = {entry.name: entry for entry in await control.index(ready_only=False)}
            ready = await control.index(ready_only=True)

    assert [entry.name for entry in ready] == ["_x"]
    assert entries.keys() == {"_x", *strays}
    for name, reason in strays.items():
        assert entries[name].state == ModelState.UNAVAILABLE
        assert reason in entries[name].reason
    told = [record for record in caplog.records if record.getMessage() == "model_folder_refused"]
    assert len(told) == len(strays)


async def test_a_model_without_versions_says_what_a_version_is_called(tmp_path: Path) -> None:
    (tmp_path / "add" / "v1").mkdir(parents=True)
    (tmp_path / "add" / "config.pbtxt").write_text(config_text("add"))

    async with controlled(tmp_path, mode="none") as control:
        [entry] = await control.index(ready_only=False)

    assert (entry.name, entry.state) == ("add", ModelState.UNAVAILABLE)
    assert "version folders are named 1, 2, 3 ... (found: v1)" in entry.reason


async def test_whoever_asks_for_one_by_name_is_told_why(tmp_path: Path) -> None:
    (tmp_path / "only-v1" / "v1").mkdir(parents=True)

    async with controlled(tmp_path) as control:
        with pytest.raises(NotFound, match=r"\(found: v1\)"):
            await control.load("only-v1")
        with pytest.raises(InvalidArgument, match="'a b': a model's name is"):
            await control.load("a b")
    with pytest.raises(ModelError, match=r"\(found: v1\)"):
        async with controlled(tmp_path, mode="none", names=("only-v1",)):
            pass


@pytest.mark.parametrize(
    ("name", "command"),
    [("all-MiniLM-L6-v2", "models add default"), ("mine", "models add SOURCE")],
)
async def test_a_missing_model_names_the_command_that_brings_it(
    tmp_path: Path, name: str, command: str
) -> None:
    with pytest.raises(ModelError, match=f"`vecserve {command} --model-repository {tmp_path}`"):
        async with controlled(tmp_path, mode="none", names=(name,)):
            pass


async def test_a_configuration_may_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    add_version(tmp_path, "add", 1)
    text = config_text("add").encode()
    (tmp_path / "add" / "config.pbtxt").write_bytes(codecs.BOM_UTF8 + text)

    async with controlled(tmp_path, mode="none") as control:
        assert control.is_ready("add", "1")


@pytest.mark.parametrize("name", ["_x", "-x", "x.1", "X" * 128])
def test_these_are_names(name: str) -> None:
    check_name(name)


@pytest.mark.parametrize("name", ["", ".x", "a b", "a/b", "x\n", "é", "X" * 129])
def test_these_are_no_names(name: str) -> None:
    with pytest.raises(InvalidArgument, match="a model's name is"):
        check_name(name)
