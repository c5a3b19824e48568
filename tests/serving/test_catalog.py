"""One registry of what serves, for embedding and for the inference protocol."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from vecserve.inference import model_config_pb2
from vecserve_server.domain.tensors import TensorReply, TensorRequest
from vecserve_server.domain.vectors import ModelRef
from vecserve_server.errors import InvalidArgument, NotFound
from vecserve_server.serving.catalog import Catalog
from vecserve_server.serving.model_versions import LoadedVersion, ServedModel


async def never(request: TensorRequest) -> TensorReply:
    raise AssertionError(request)


async def closed(timeout_s: float) -> bool:
    return timeout_s > 0


def loaded(name: str, version: str, *, digest: str = "", embeds: bool = True) -> LoadedVersion:
    text: Any = SimpleNamespace(ref=ModelRef(name=name, version=version, digest=digest))
    batcher: Any = None
    return LoadedVersion(
        name=name,
        version=version,
        config=model_config_pb2.ModelConfig(name=name),
        infer=never,
        digest=digest,
        close=closed,
        text=ServedModel(text=text, compute=batcher, preprocessors={}) if embeds else None,
    )


@pytest.fixture
def catalog() -> Catalog:
    return Catalog(default="m")


def test_what_is_put_serves_both_protocols_until_the_record_lets_go(catalog: Catalog) -> None:
    version = loaded("m", "1")
    catalog.put(version)
    record = catalog.records["m"]
    assert record.find("") is version
    assert catalog.get("") is version.text
    record.version("1").loaded = None
    with pytest.raises(NotFound, match="'m' is not loaded"):
        catalog.get("m")


def test_the_latest_version_is_the_highest_number_whatever_came_last(catalog: Catalog) -> None:
    for number in ("10", "9"):
        catalog.put(loaded("m", number))
    assert catalog.get("m").text.ref.version == "10"
    assert catalog.records["m"].find("").version == "10"
    assert catalog.get("m", "9").text.ref.version == "9"
    assert [served.text.ref.version for served in catalog.all()] == ["9", "10"]


def test_what_embeds_nothing_is_no_encoder(catalog: Catalog) -> None:
    catalog.put(loaded("m", "1"))
    catalog.put(loaded("add", "1", embeds=False))
    assert catalog.records["add"].find("1").name == "add"
    with pytest.raises(NotFound, match=r"'add' is not loaded; loaded are m$"):
        catalog.get("add")


def test_a_version_is_named_by_a_number_that_serves(catalog: Catalog) -> None:
    catalog.put(loaded("m", "1"))
    with pytest.raises(InvalidArgument, match="'latest' is not a decimal number"):
        catalog.get("m", "latest")
    with pytest.raises(NotFound, match="version 2 of model 'm' is not loaded; loaded is 1"):
        catalog.get("m", "2")


def test_vectors_find_the_weights_that_made_them_or_the_latest(catalog: Catalog) -> None:
    for number, digest in (("1", "old"), ("2", "new")):
        catalog.put(loaded("m", number, digest=digest))
    assert (
        catalog.with_weights(ModelRef(name="m", version="7", digest="old")).text.ref.version == "1"
    )
    assert catalog.with_weights(ModelRef(name="m", version="1", digest="x")).text.ref.version == "2"


def test_watchers_hear_of_encoders_that_can_be_found(catalog: Catalog) -> None:
    found: list[bool] = []
    catalog.watch(lambda served: found.append(catalog.get("m") is served))
    catalog.put(loaded("add", "1", embeds=False))
    catalog.put(loaded("m", "1"))
    assert found == [True]
