"""More than the server can do at once: it refuses what it would answer too late, and no more."""

from __future__ import annotations

import os
import sys
import time
from collections import Counter
from pathlib import Path

import grpc
import pytest

from tests.e2e.server_process import ServerProcess
from tests.e2e.stubs import Stubs
from vecserve.v1 import embedding_pb2
from vecserve_server.measuring.load.light_client import OK, LightClient

LONG = " ".join(["every text is another one and fills most of a run"] * 20)
DEADLINE_S, PATIENCE_S = 1.0, 60.0


def request(number: int) -> embedding_pb2.EmbedRequest:
    return embedding_pb2.EmbedRequest(inputs=[embedding_pb2.EmbedInput(text=f"{number} {LONG}")])


def test_calls_that_would_be_answered_too_late_are_refused(stubs: Stubs) -> None:
    embed = stubs.embedding.Embed
    # How long things take shows while others wait.
    for call in [embed.future(request(number), timeout=PATIENCE_S) for number in range(40)]:
        call.result()

    flood = [embed.future(request(number), timeout=DEADLINE_S) for number in range(100, 700)]
    codes = Counter(call.code() for call in flood)

    assert codes[grpc.StatusCode.OK]
    refused = [call for call in flood if call.code() is grpc.StatusCode.RESOURCE_EXHAUSTED]
    assert refused
    assert all("longer than the request may" in (call.details() or "") for call in refused)
    assert set(codes) <= {
        grpc.StatusCode.OK,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        grpc.StatusCode.DEADLINE_EXCEEDED,
    }
    assert embed(request(1000), timeout=PATIENCE_S).items[0].vector.dim


def test_a_burst_of_calls_that_can_wait_is_answered_to_the_last_one(server: ServerProcess) -> None:
    client = LightClient(
        target=server.target, method="/inference.GRPCInferenceService/ServerLive", messages=[b""]
    )
    calls = client.open([time.perf_counter()] * 4000, PATIENCE_S)
    client.close()
    assert Counter(call.code for call in calls) == {OK: 4000}


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has threads of different niceness")
def test_whatever_computes_yields_to_the_thread_that_answers(
    server: ServerProcess, stubs: Stubs
) -> None:
    stubs.embedding.Embed(request(0), timeout=PATIENCE_S)
    answering = server.process.pid  # the main thread's number is its process's
    tasks = Path(f"/proc/{answering}/task")
    ticks = {
        int(task.name): _cpu_ticks(task) for task in tasks.iterdir() if task.name != str(answering)
    }
    # Those that loaded the model and ran it; what else there is has hardly done anything.
    computed = [thread for thread, used in ticks.items() if used > max(ticks.values()) / 2]
    expected = min(_niceness(answering) + 10, 19)
    assert {thread: _niceness(thread) for thread in computed} == dict.fromkeys(computed, expected)


def _niceness(thread: int) -> int:
    return os.getpriority(os.PRIO_PROCESS, thread)


def _cpu_ticks(task: Path) -> int:
    fields = (task / "stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])
