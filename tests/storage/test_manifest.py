"""The manifest of a collection, whole and damaged."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vecserve_server.domain.collections import (
    CollectionSpec,
    FieldSpec,
    FieldType,
    TextAnalysis,
    Tokeniser,
)
from vecserve_server.domain.vectors import ModelRef
from vecserve_server.errors import ConfigError, CorruptData
from vecserve_server.storage.folders import manifest
from vecserve_server.storage.folders.manifest import (
    Generation,
    Manifest,
    Reindex,
    Retired,
    read_manifest,
    write_manifest,
)

_TEXT = st.text(st.characters(codec="utf-8"), max_size=20)
_MODELS = st.builds(ModelRef, name=_TEXT, version=_TEXT, digest=_TEXT)
_NUMBERS = st.integers(1, 2**53)
_DIMS = st.integers(1, 8192)
_GENERATIONS = st.builds(Generation, number=_NUMBERS, model=_MODELS, dim=_DIMS)
_MANIFESTS = st.builds(
    Manifest,
    spec=st.builds(
        CollectionSpec,
        name=_TEXT,
        model=_MODELS,
        dim=_DIMS,
        created_unix_ms=_NUMBERS,
        fields=st.lists(
            st.builds(FieldSpec, name=_TEXT, type=st.sampled_from(FieldType)), max_size=4
        ).map(tuple),
        text_analysis=st.builds(
            TextAnalysis, tokeniser=st.sampled_from(Tokeniser), porter=st.booleans()
        ),
        keep_text=st.booleans(),
    ),
    generation=_NUMBERS,
    previous=st.none() | st.builds(Retired, generation=_GENERATIONS, retired_unix_ms=_NUMBERS),
    reindex=st.none()
    | st.builds(
        Reindex,
        id=_TEXT,
        generation=_GENERATIONS,
        state=st.sampled_from(["running", "done", "failed"]),
        message=_TEXT,
        overlap=st.floats(0, 1),
    ),
)
_SPEC = CollectionSpec(
    name="docs",
    model=ModelRef(name="encoder", version="1", digest="0f" * 32),
    dim=384,
    created_unix_ms=1_700_000_000_000,
)


@given(_MANIFESTS)
def test_what_was_written_is_read_back(written: Manifest) -> None:
    with tempfile.TemporaryDirectory() as folder:
        write_manifest(Path(folder), written)
        assert read_manifest(Path(folder)) == written


@given(st.data())
def test_any_flipped_bit_and_any_truncation_is_noticed(data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as folder:
        write_manifest(Path(folder), Manifest(spec=_SPEC))
        (path,) = Path(folder).iterdir()
        whole = path.read_bytes()
        place = data.draw(st.integers(0, len(whole) - 1))
        flipped = bytearray(whole)
        flipped[place] ^= 1 << data.draw(st.integers(0, 7))
        path.write_bytes(data.draw(st.sampled_from([bytes(flipped), whole[:place]])))
        with pytest.raises(CorruptData, match="MANIFEST"):
            read_manifest(Path(folder))


def test_a_manifest_of_the_first_version_is_read(tmp_path: Path) -> None:
    collection = dataclasses.asdict(_SPEC)
    del collection["fields"], collection["text_analysis"], collection["keep_text"]
    body = json.dumps({"version": 1, "collection": collection}).encode()
    checksum = hashlib.sha256(body).hexdigest().encode()
    (tmp_path / "MANIFEST").write_bytes(checksum + b"\n" + body)
    assert read_manifest(tmp_path) == Manifest(spec=_SPEC, generation=manifest.UNNUMBERED)


def test_a_missing_manifest_is_damage(tmp_path: Path) -> None:
    with pytest.raises(CorruptData, match="MANIFEST: the collection's manifest is missing"):
        read_manifest(tmp_path)


def test_a_newer_manifest_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manifest, "_VERSION", 3)
    write_manifest(tmp_path, Manifest(spec=_SPEC))
    monkeypatch.undo()
    with pytest.raises(ConfigError, match="version 3"):
        read_manifest(tmp_path)
