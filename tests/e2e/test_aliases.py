"""A collection under a second name, which moves in one step and outlives the process."""

from __future__ import annotations

import asyncio
import threading

import pytest

from tests.e2e.server_process import Launch, ServerProcess
from tests.e2e.stubs import TIMEOUT_S, Stubs
from vecserve.v1 import collection_pb2
from vecserve_client import (
    Alias,
    AlreadyExists,
    AsyncClient,
    Client,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    Record,
)
from vecserve_server.cli.program import run


def ids(client: Client, name: str) -> list[str]:
    return [row.id for row in client.scan(name)]


def test_an_alias_goes_wherever_a_collection_goes(client: Client) -> None:
    client.create_collection("cars-1")
    assert client.admin.set_alias("cars", "cars-1") is None
    client.upsert("cars", [Record(id="a", text="a red car"), Record(id="b", text="a boat")])
    assert ids(client, "cars") == ids(client, "cars-1") == ["a", "b"]
    assert client.get_collection("cars").name == "cars-1"
    assert client.search("cars", "car", k=1).hits[0].id == "a"
    assert client.search_batch("cars", ["boat"], k=1)[0].hits[0].id == "b"
    assert client.get("cars", ["a"]).rows[0].id == "a"
    assert (client.delete("cars", ["b"]), client.count("cars")) == (1, 1)
    client.admin.delete_alias("cars")
    with pytest.raises(NotFound, match="'cars'"):
        client.count("cars")
    assert client.drop_collection("cars-1") == 1


def test_what_would_be_ambiguous_is_refused(client: Client) -> None:
    client.create_collection("one")
    client.create_collection("two")
    client.admin.set_alias("first", "one")
    with pytest.raises(AlreadyExists, match="'two' is the name of a collection"):
        client.admin.set_alias("two", "one")
    with pytest.raises(NotFound, match="'first' is not the name of a collection"):
        client.admin.set_alias("second", "first")
    with pytest.raises(InvalidArgument, match=r"alias\.name"):
        client.admin.set_alias("no/name", "one")
    with pytest.raises(AlreadyExists, match="'first' is an alias of 'one'"):
        client.create_collection("first")
    with pytest.raises(FailedPrecondition, match="'first' is an alias of 'one'"):
        client.drop_collection("first")
    with pytest.raises(FailedPrecondition, match="the alias 'first' stands for 'one'"):
        client.drop_collection("one")
    with pytest.raises(NotFound, match="'nobody' is not an alias"):
        client.admin.delete_alias("nobody")
    client.admin.delete_alias("first")
    client.drop_collection("one")
    client.drop_collection("two")


def test_a_moving_alias_fails_no_call(client: Client, server: ServerProcess) -> None:
    for name in ("blue", "green"):
        client.create_collection(name)
        client.upsert(name, [Record(id=name, text="a colour")])
    client.admin.set_alias("live", "blue")
    seen: list[str] = []
    failures: list[Exception] = []
    stop = threading.Event()

    def read() -> None:
        with Client(target=server.target) as other:
            while not stop.is_set():
                try:
                    seen.extend(hit.id for hit in other.search("live", "colour").hits)
                except Exception as failure:  # noqa: BLE001 - whatever it is, the test names it
                    failures.append(failure)

    reader = threading.Thread(target=read)
    reader.start()
    for before, after in [("blue", "green"), ("green", "blue")] * 20:
        assert client.admin.set_alias("live", after) == before
        assert client.search("live", "colour").hits[0].id == after
    stop.set()
    reader.join(TIMEOUT_S)
    assert failures == []
    assert set(seen) <= {"blue", "green"}
    client.admin.delete_alias("live")


def test_aliases_are_listed_in_pages_and_by_the_asynchronous_client(
    client: Client, server: ServerProcess, stubs: Stubs
) -> None:
    client.create_collection("target")
    names = [f"alias-{number}" for number in range(5)]
    for name in names:
        client.admin.set_alias(name, "target")
    listed, token = [], ""
    for _ in names:
        request = collection_pb2.ListAliasesRequest(page_size=2, page_token=token)
        page = stubs.collection.ListAliases(request, timeout=TIMEOUT_S)
        listed += [alias.name for alias in page.aliases]
        token = page.next_page_token
        if not token:
            break
    assert listed == names

    async def use() -> list[Alias]:
        async with AsyncClient(target=server.target) as other:
            assert await other.admin.set_alias("alias-0", "target") == "target"
            for name in names[1:]:
                await other.admin.delete_alias(name)
            return await other.admin.list_aliases()

    assert asyncio.run(use()) == [Alias(name="alias-0", collection="target")]
    client.admin.delete_alias("alias-0")
    client.drop_collection("target")


def test_the_command_line_sets_lists_and_deletes(
    client: Client, server: ServerProcess, capsys: pytest.CaptureFixture[str]
) -> None:
    client.create_collection("shop-1")
    client.create_collection("shop-2")
    for args in (
        ["aliases", "set", "shop", "shop-1"],
        ["aliases", "set", "shop", "shop-2"],
        ["aliases", "list", "--json"],
        ["aliases", "list"],
        ["aliases", "delete", "shop"],
    ):
        assert run([*args, "--server", server.target]) == 0
    out = capsys.readouterr().out
    assert "shop -> shop-1\nshop -> shop-2 (was shop-1)\n" in out
    assert '{"aliases": [{"name": "shop", "collection": "shop-2"}]}' in out
    assert out.endswith("deleted shop\n")


def test_aliases_outlive_the_process(launch: Launch) -> None:
    server = launch()
    with Client(target=server.target) as client:
        client.create_collection("docs-1")
        client.admin.set_alias("docs", "docs-1")
    server.kill()
    server = launch(name="again")
    with Client(target=server.target) as client:
        assert client.get_collection("docs").name == "docs-1"
    assert server.stop() == 0
