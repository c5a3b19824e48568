"""The hub: the real client against a small server that answers as the hub does."""

from __future__ import annotations

import hashlib
import json
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from tests.importing.test_ready_made import graph_file
from tests.importing.tiny_bert import CheckpointFiles
from vecserve_server.errors import InvalidArgument, ModelError
from vecserve_server.importing.importer import Origin, import_model, is_buildable
from vecserve_server.importing.sources.hub import (
    HubSource,
    parse_source,
    settings_files,
    weight_files,
)
from vecserve_server.importing.sources.hub import fetch as fetch_if_buildable

pytest.importorskip("huggingface_hub", reason="huggingface_hub is not installed")

COMMIT = "0123456789abcdef0123456789abcdef01234567"
REPOSITORY = "org/tiny"


fetch = partial(fetch_if_buildable, is_buildable=is_buildable)


@dataclass(frozen=True)
class Hub:
    """Where the server is, and what was asked of it."""

    endpoint: str
    asked: list[str]


def files_of(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def description(files: dict[str, bytes]) -> dict[str, object]:
    def entry(name: str, content: bytes) -> dict[str, object]:
        digest = hashlib.sha256(content).hexdigest()
        lfs = {"sha256": digest, "size": len(content), "pointerSize": 130}
        large = {"lfs": lfs} if name.endswith(".safetensors") else {}
        return {"rfilename": name, "size": len(content), "blobId": digest[:40], **large}

    siblings = [entry(name, content) for name, content in files.items()]
    return {"id": REPOSITORY, "sha": COMMIT, "siblings": siblings, "tags": []}


@pytest.fixture
def files(tmp_path: Path) -> dict[str, bytes]:
    """A checkpoint on the hub, beside files that nobody needs."""
    extra = {"pytorch_model.bin": b"pickle", "onnx/model.onnx": b"onnx", "train.py": b"code"}
    return files_of(CheckpointFiles().write(tmp_path / "published")) | extra


@pytest.fixture
def hub(files: dict[str, bytes]) -> Iterator[Hub]:
    asked: list[str] = []

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path = unquote(urlsplit(self.path).path)
            resolve = f"/{REPOSITORY}/resolve/{COMMIT}/"
            if path in (f"/api/models/{REPOSITORY}", f"/api/models/{REPOSITORY}/revision/v1"):
                self.reply(json.dumps(description(files)).encode(), "application/json")
            elif path.startswith(f"/api/models/{REPOSITORY}/revision/"):
                self.fail("RevisionNotFound")
            elif path.startswith(resolve) and path.removeprefix(resolve) in files:
                asked.append(path.removeprefix(resolve))
                self.reply(files[asked[-1]], "application/octet-stream")
            else:
                self.fail("RepoNotFound")

        do_HEAD = do_GET  # noqa: N815 - the name that http.server looks for

        def reply(self, content: bytes, kind: str) -> None:
            self.send_response(200)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(content)))
            self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
            self.send_header("X-Repo-Commit", COMMIT)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(content)

        def fail(self, code: str) -> None:
            self.send_response(404)
            self.send_header("X-Error-Code", code)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield Hub(f"http://127.0.0.1:{server.server_port}", asked)
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.mark.parametrize("revision", [None, "v1"])
def test_a_checkpoint_is_fetched_and_pinned(hub: Hub, tmp_path: Path, revision: str | None) -> None:
    steps: list[float] = []

    found = fetch(
        HubSource(repository=REPOSITORY, revision=revision),
        endpoint=hub.endpoint,
        cache_folder=tmp_path / "cache",
        progress=lambda _, fraction: steps.append(fraction),
    )
    card = import_model(
        source=found.folder,
        repository=tmp_path / "models",
        name="tiny",
        expected_sha256=found.sha256_by_file,
        origin=Origin(source=f"hf:{REPOSITORY}", revision=found.commit),
    )

    assert (card.source, card.revision) == (f"hf:{REPOSITORY}", COMMIT)
    assert found.sha256_by_file.keys() == {"model.safetensors"}
    assert not {"pytorch_model.bin", "onnx/model.onnx", "train.py"} & set(hub.asked)
    assert steps == sorted(steps)


def test_an_onnx_file_is_fetched_with_its_tensors_where_the_weights_cannot_be_used(
    hub: Hub, files: dict[str, bytes], tmp_path: Path
) -> None:
    graph_file(tmp_path / "model.onnx", external=True, location="the tensors")
    files["onnx/model.onnx"] = (tmp_path / "model.onnx").read_bytes()
    files["onnx/the tensors"] = (tmp_path / "the tensors").read_bytes()
    files["onnx/model_fp16.onnx"] = b"another variant"
    files["config.json"] = b'{"model_type": "nomic_bert", "n_positions": 64}'
    (tmp_path / "tokenizer.json").write_bytes(files["tokenizer.json"])

    found = fetch(
        HubSource(repository=REPOSITORY), endpoint=hub.endpoint, cache_folder=tmp_path / "cache"
    )
    card = import_model(source=found.folder, repository=tmp_path / "models", name="tiny")

    assert (card.layout, card.max_tokens) == ("padded", 40)
    assert {"onnx/model.onnx", "onnx/the tensors"} <= card.source_sha256.keys()
    assert not {"model.safetensors", "onnx/model_fp16.onnx"} & set(hub.asked)


def test_a_file_that_differs_from_what_the_hub_says_is_refused(hub: Hub, tmp_path: Path) -> None:
    source = HubSource(repository=REPOSITORY)
    found = fetch(source, endpoint=hub.endpoint, cache_folder=tmp_path / "cache")
    weights = found.folder / "model.safetensors"
    content = weights.read_bytes()
    weights.unlink()
    weights.write_bytes(content[:-1] + b"\x01")

    with pytest.raises(ModelError, match=r"model\.safetensors: sha256 is"):
        import_model(
            source=found.folder,
            repository=tmp_path / "models",
            name="tiny",
            expected_sha256=found.sha256_by_file,
        )


@pytest.mark.parametrize(
    ("source", "problem"),
    [
        (HubSource(repository="org/none"), "hf:org/none: the hub has no such repository"),
        (HubSource(repository=REPOSITORY, revision="v9"), "the hub has no revision v9"),
    ],
)
def test_what_the_hub_does_not_have_is_named(
    hub: Hub, tmp_path: Path, source: HubSource, problem: str
) -> None:
    with pytest.raises(ModelError, match=problem):
        fetch(source, endpoint=hub.endpoint, cache_folder=tmp_path)


def test_offline_says_what_to_do(tmp_path: Path) -> None:
    source = HubSource(repository=REPOSITORY)

    # Port 1 is reserved and closed.
    with pytest.raises(ModelError, match=r"cannot be fetched .* copy the checkpoint's folder here"):
        fetch(source, endpoint="http://127.0.0.1:1", cache_folder=tmp_path)


def test_without_the_library_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)

    with pytest.raises(
        ModelError, match=r"huggingface_hub is not installed: install vecserve\[exp"
    ):
        fetch(HubSource(repository=REPOSITORY))


@pytest.mark.parametrize(
    ("text", "source"),
    [
        ("hf:org/name", HubSource(repository="org/name")),
        ("hf:org/name@v1.0", HubSource(repository="org/name", revision="v1.0")),
        ("hf:bert-base", HubSource(repository="bert-base")),
        ("./folder", None),
    ],
)
def test_sources_are_told_apart(text: str, source: HubSource | None) -> None:
    assert parse_source(text) == source


@pytest.mark.parametrize("text", ["hf:", "hf:a/b/c", "hf:a/b@", "hf:../etc", "hf:a b"])
def test_a_malformed_source_is_refused(text: str) -> None:
    with pytest.raises(InvalidArgument, match="is not hf:ORG/NAME"):
        parse_source(text)


def test_shards_are_needed_and_onnx_only_without_weights() -> None:
    common = ["config.json", "tokenizer.json", "1_Pooling/config.json"]
    dense = ["2_Dense/model.safetensors"]
    shards = ["model-00001-of-00002.safetensors", "model.safetensors.index.json"]
    onnx = ["onnx/model.onnx", "onnx/model_quantized.onnx"]
    names = [*common, *dense, *shards, *onnx]

    assert settings_files(names) == sorted(common)
    assert weight_files(names, buildable=True) == sorted([*dense, *shards])
    assert weight_files(names, buildable=False) == sorted([*dense, "onnx/model.onnx"])
    assert weight_files([*common, *dense, *shards], buildable=False) == sorted([*dense, *shards])
    assert weight_files([*common, *onnx], buildable=True) == ["onnx/model.onnx"]
