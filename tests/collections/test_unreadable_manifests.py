"""Snapshots and manifests that another vecserve wrote, or nobody."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from tests.collections.served_store import Store, spec
from vecserve_server.checked_json import find_checked_json, write_checked_json
from vecserve_server.domain.caller import ANONYMOUS
from vecserve_server.domain.snapshots import UnreadableSnapshot
from vecserve_server.errors import ConfigError, FailedPrecondition
from vecserve_server.storage.folders.manifest import read_manifest


def rewrite(path: Path, **change: object) -> None:
    content = find_checked_json(path)
    assert content is not None
    write_checked_json(path, {**content, **change})


async def test_snapshots_that_cannot_be_read_are_listed_with_the_reason(store: Store) -> None:
    await store.made("a")
    for name in ("fine", "newer", "unknown", "nested", "damaged"):
        await store.upkeep.snapshot("a", name, ANONYMOUS)
    rewrite(store.snapshots / "newer" / "SNAPSHOT", version=7)
    rewrite(store.snapshots / "unknown" / "SNAPSHOT", zip="zstd")
    nested = {**dataclasses.asdict(spec("a")), "shards": 3}
    rewrite(store.snapshots / "nested" / "SNAPSHOT", spec=nested)
    (store.snapshots / "damaged" / "SNAPSHOT").write_bytes(b"x")
    (store.snapshots / "empty").mkdir()
    listed = await store.upkeep.snapshots(ANONYMOUS)
    problems = {
        name: one.reason for name, one in listed.items() if isinstance(one, UnreadableSnapshot)
    }
    assert sorted(listed) == ["damaged", "fine", "nested", "newer", "unknown"]
    assert sorted(problems) == ["damaged", "nested", "newer", "unknown"]
    assert "has format version 7" in problems["newer"]
    assert "the key 'zip'" in problems["unknown"]
    assert "the key 'shards'" in problems["nested"]
    for name in ("newer", "unknown", "nested"):
        with pytest.raises(FailedPrecondition, match=r"reads version 1|does not know") as raised:
            await store.upkeep.restore(name, "copy", ANONYMOUS)
        assert "the vecserve that wrote it, or a newer one" in str(raised.value)
    assert await store.upkeep.restore("fine", "copy", ANONYMOUS) == 1


async def test_a_manifest_of_a_newer_vecserve_is_refused_with_the_key(store: Store) -> None:
    await store.made("a")
    rewrite(store.files_of("a") / "MANIFEST", shards=3, previous={"node": 1})
    with pytest.raises(ConfigError, match="a newer one"):
        read_manifest(store.files_of("a"))
