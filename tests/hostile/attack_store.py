"""Upkeep, filters and collections without end."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import grpc

from tests.e2e.stubs import TIMEOUT_S
from tests.hostile.target import Target, outcomes
from vecserve.v1 import admin_pb2, admin_pb2_grpc, collection_pb2, index_pb2, search_pb2

BIG = "big"
CHECKS, SNAPSHOTS, COLLECTIONS = 4000, 12, 260
CONDITIONS, LIST, VALUES = 240, 60, 17
"""As much as a filter may have with the default limits."""
Code = grpc.StatusCode


def checks(target: Target) -> None:
    """Thousands of checks of one collection whose callers leave after 0.3 seconds."""
    with target.channel() as channel:
        verify = admin_pb2_grpc.AdminServiceStub(channel).VerifyCollection
        request = admin_pb2.VerifyCollectionRequest(collection=BIG)
        calls = [verify.future(request, timeout=0.3) for _ in range(CHECKS)]
        assert Code.INTERNAL not in outcomes(calls)


def snapshots(target: Target) -> None:
    """Snapshots whose callers leave after half a second: at most the first may be written."""
    with target.channel() as channel:
        admin = admin_pb2_grpc.AdminServiceStub(channel)
        calls = [
            admin.CreateSnapshot.future(
                admin_pb2.CreateSnapshotRequest(collection=BIG, name=f"left-{number}"), timeout=0.5
            )
            for number in range(SNAPSHOTS)
        ]
        answered = outcomes(calls).count(Code.OK)
        time.sleep(1)
        found = admin.ListSnapshots(admin_pb2.ListSnapshotsRequest(), timeout=TIMEOUT_S).snapshots
        for one in found:
            admin.DeleteSnapshot(admin_pb2.DeleteSnapshotRequest(name=one.name), timeout=TIMEOUT_S)
        assert len(found) <= answered + 1


def filters(target: Target) -> None:
    """Six filters of 240 conditions on fields without an index, over all rows, at once."""
    values = [f'"value {value}"' for value in range(VALUES)]
    conditions = [
        search_pb2.Filter(
            field=search_pb2.FieldCondition(
                field=f"field{number}", one_of=search_pb2.JsonList(values_json=values)
            )
        )
        for number in range(CONDITIONS)
    ]
    lists = [
        search_pb2.Filter(any_of=search_pb2.FilterList(filters=conditions[first : first + LIST]))
        for first in range(0, CONDITIONS, LIST)
    ]
    condition = search_pb2.Filter(any_of=search_pb2.FilterList(filters=lists))
    request = index_pb2.CountRequest(collection=BIG, filter=condition)
    with target.stubs() as stubs:
        calls = [stubs.index.Count.future(request, timeout=8.0) for _ in range(6)]
        time.sleep(1)
        calls[0].cancel()
        assert Code.INVALID_ARGUMENT not in outcomes(calls)


def collections(target: Target) -> None:
    """More collections than a process with the usual limit of descriptors can hold open."""
    with target.stubs() as stubs:

        def create(number: int) -> None:
            request = collection_pb2.CreateCollectionRequest(name=f"many-{number}")
            stubs.collection.CreateCollection(request, timeout=TIMEOUT_S)

        def drop(number: int) -> None:
            with suppress(grpc.RpcError):
                request = collection_pb2.DropCollectionRequest(name=f"many-{number}")
                stubs.collection.DropCollection(request, timeout=TIMEOUT_S)

        with ThreadPoolExecutor(8) as pool:
            try:
                list(pool.map(create, range(COLLECTIONS)))
            finally:
                list(pool.map(drop, range(COLLECTIONS)))
