"""A modality comes with its preprocessor: images, each of them a bag of bytes, in a few lines."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import grpc
import numpy as np
import pytest
import pytest_asyncio
from grpc import aio

from tests.collections.served_store import BOUNDS, Store
from tests.gateway.api_server import api_server
from vecserve.v1 import embedding_pb2, embedding_pb2_grpc
from vecserve_server.domain.caller import ANONYMOUS
from vecserve_server.domain.embedding import EmbedOptions
from vecserve_server.domain.inputs import Embeddable, Image, Modality, Text
from vecserve_server.domain.searching import Wanted
from vecserve_server.domain.vectors import Encodings, ModelRef, TokenIds
from vecserve_server.encoding.preprocessor import Preparation, Prepared
from vecserve_server.errors import FailedPrecondition, FieldPath, InvalidArgument
from vecserve_server.observability.metrics import make_metrics
from vecserve_server.scheduling.batcher import DynamicBatcher, QueueBounds
from vecserve_server.scheduling.computation import Computation, Computations, abandoned
from vecserve_server.scheduling.policies.encoder_policy import EncoderPolicy
from vecserve_server.services.collection_vectors import CollectionEmbedder
from vecserve_server.services.declaring import DeclaringService, NewCollection
from vecserve_server.services.embedding import EmbeddingService
from vecserve_server.services.indexing import IndexingService
from vecserve_server.services.reindexing import ReindexingService
from vecserve_server.services.row_preparation import RowInput
from vecserve_server.services.searching import QueryInput, SearchingService
from vecserve_server.serving.catalog import Catalog
from vecserve_server.serving.embedder import Embedder
from vecserve_server.serving.model_versions import LoadedVersion, ServedModel
from vecserve_server.settings.settings import LimitSettings, ReindexSettings

DIM = 16
PATIENCE_S = 60.0
BLUE, RED, PURPLE = Image(b"\x01\x01\x01"), Image(b"\x02\x02\x02"), Image(b"\x01\x01\x02")


class ToyImages:
    """Takes an image for the sequence of its bytes."""

    modality = Modality.IMAGE

    def check(self, field: FieldPath, item: Embeddable) -> None:
        if not cast("Image", item).data:
            raise InvalidArgument(field, "is no image")

    def cut(self, items: Sequence[Embeddable], preparation: Preparation) -> list[list[int]]:
        return [list(range(len(items)))]

    async def prepare(
        self, items: Sequence[Embeddable], preparation: Preparation, *, deadline_ns: int | None
    ) -> Sequence[Prepared]:
        images = [np.frombuffer(cast("Image", item).data, np.uint8) for item in items]
        return [Prepared(sequence=one.astype(np.int64), total_tokens=one.size) for one in images]


def count_bytes(sequences: Sequence[TokenIds]) -> Encodings:
    counts = np.stack([np.bincount(ids % DIM, minlength=DIM) for ids in sequences])
    norms = np.linalg.norm(counts, axis=1).astype(np.float32)
    return Encodings((counts / norms[:, None]).astype(np.float32), norms)


def toy_compute() -> DynamicBatcher[TokenIds]:
    policy: EncoderPolicy[Computation[TokenIds]] = EncoderPolicy(
        run_tokens=64, min_share_tokens=64, look_ahead_entries=16, abandoned=abandoned
    )
    return DynamicBatcher(
        name="toy",
        dim=DIM,
        runs=[count_bytes],
        computations=Computations(key=np.ndarray.tobytes, cost=len),
        policy=policy,
        bounds=QueueBounds(entries=100, tokens=400),
        clock_ns=time.perf_counter_ns,
        metrics=make_metrics(),
        on_run=lambda *_: None,
    )


def toy_model(version: int, compute: DynamicBatcher[TokenIds]) -> LoadedVersion:
    text: Any = SimpleNamespace(
        ref=ModelRef(name="toy", version=str(version), digest=str(version) * 64),
        config=SimpleNamespace(
            dim=DIM, prompts={}, default_prompt="", normalise=True, truncation_side="right"
        ),
    )
    served = ServedModel(text=text, compute=compute, preprocessors={Modality.IMAGE: ToyImages()})
    loaded: Any = SimpleNamespace(name="toy", version=str(version), text=served)
    return cast("LoadedVersion", loaded)


@dataclass(frozen=True, kw_only=True)
class Toy:
    """The use cases over a model that takes images only."""

    catalog: Catalog
    compute: DynamicBatcher[TokenIds]
    embedding: EmbeddingService
    declaring: DeclaringService
    indexing: IndexingService
    searching: SearchingService
    reindexing: ReindexingService

    async def store(self, **images: Image) -> None:
        await self.declaring.create(NewCollection(name="pictures", model="toy"), ANONYMOUS)
        rows = [RowInput(id=key, content=image, payload_json="") for key, image in images.items()]
        stored = await self.indexing.upsert("pictures", rows, EmbedOptions(), ANONYMOUS)
        assert not stored.errors

    async def like(self, image: Image) -> list[str]:
        query = QueryInput(name=("query",), content=image)
        found = await self.searching.search(
            "pictures", [query], Wanted(k=9), EmbedOptions(), ANONYMOUS
        )
        return [hit.id for hit in found.answers[0].hits]


@pytest_asyncio.fixture
async def toy(tmp_path: Path) -> AsyncIterator[Toy]:
    limits, catalog, compute = LimitSettings(), Catalog(default="toy"), toy_compute()
    catalog.put(toy_model(1, compute))
    embedder = Embedder(limits=limits, clock_ns=time.perf_counter_ns, metrics=make_metrics())
    vectors = CollectionEmbedder(catalog=catalog, embedder=embedder)
    with ThreadPoolExecutor(BOUNDS.all_search_threads) as pool:
        store = Store(tmp_path / "data", pool)
        reindexing = ReindexingService(
            collections=store.collections,
            embedder=embedder,
            catalog=catalog,
            settings=ReindexSettings(),
            release_models=lambda: None,
            wall_clock_ms=int,
        )
        yield Toy(
            catalog=catalog,
            compute=compute,
            embedding=EmbeddingService(catalog=catalog, embedder=embedder),
            declaring=DeclaringService(
                collections=store.collections, catalog=catalog, wall_clock_ms=int
            ),
            indexing=IndexingService(
                collections=store.collections,
                embedder=vectors,
                check_pool=pool,
                limits=limits,
                clock_ns=time.perf_counter_ns,
            ),
            searching=SearchingService(
                collections=store.collections, embedder=vectors, limits=limits
            ),
            reindexing=reindexing,
        )
        await reindexing.close()
        await store.close()
        assert await compute.close(PATIENCE_S)


async def test_images_become_vectors_and_each_bad_one_fails_alone(toy: Toy) -> None:
    given: list[Embeddable] = [BLUE, Image(b""), Text("blue")]
    embedded = await toy.embedding.embed("", given, EmbedOptions(), ANONYMOUS)
    assert embedded.vectors[0, 1] == 1
    assert {index: str(error) for index, error in embedded.errors.items()} == {
        1: "inputs[1].image: is no image",
        2: "inputs[2].text: model 'toy' takes image only",
    }


async def test_images_are_stored_and_found_by_others_that_are_like_them(toy: Toy) -> None:
    await toy.store(blue=BLUE, red=RED)
    assert await toy.like(PURPLE) == ["blue", "red"]


async def test_images_are_re_indexed_with_the_vectors_that_they_have(toy: Toy) -> None:
    await toy.store(blue=BLUE, red=RED)
    reindex_id = await toy.reindexing.start("pictures", "toy", ANONYMOUS)
    await toy.reindexing._runs["pictures"].task
    assert toy.reindexing.get(reindex_id, ANONYMOUS).reindex.state == "done"
    assert await toy.like(RED) == ["red", "blue"]


async def test_images_that_are_not_kept_are_not_embedded_by_another_model(toy: Toy) -> None:
    await toy.store(blue=BLUE)
    toy.catalog.put(toy_model(2, toy.compute))
    with pytest.raises(FailedPrecondition, match="do not keep the texts that they were made of"):
        await toy.reindexing.start("pictures", "toy", ANONYMOUS)


async def test_images_come_over_the_wire(toy: Toy) -> None:
    faces = dict.fromkeys(("reading", "classifying", "reporting", "upkeep"))
    core = SimpleNamespace(**{name: getattr(toy, name) for name in Toy.__annotations__} | faces)
    async with api_server(core) as api:
        stub: Any = embedding_pb2_grpc.EmbeddingServiceStub(api.channel)
        image = embedding_pb2.EmbedInput(image=BLUE.data)
        reply = await stub.Embed(embedding_pb2.EmbedRequest(inputs=[image]))
        assert np.frombuffer(reply.items[0].vector.data, "<f4")[1] == 1
        with pytest.raises(aio.AioRpcError) as failed:
            await stub.Embed(embedding_pb2.EmbedRequest(model="none", inputs=[image]))
        assert failed.value.code() is grpc.StatusCode.NOT_FOUND
