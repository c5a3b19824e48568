"""A report of a load counts what the server was asked."""

from __future__ import annotations

import tritonclient.grpc as protocol

from tests.e2e.server_process import ServerProcess
from vecserve_client import AsyncClient
from vecserve_server.measuring.load.closed_loop import call_rate, closed_loops
from vecserve_server.measuring.load.open_loop import PATIENCE_S, light_client
from vecserve_server.measuring.load.phases import summarise

MODEL = "all-MiniLM-L6-v2"
TEXTS = ["a red car", "a parcel that never came"]
SECONDS = 0.5


def answered(server: ServerProcess) -> int:
    with protocol.InferenceServerClient(server.target) as client:
        [found] = client.get_inference_statistics(MODEL).model_stats
        return int(found.inference_count)


def test_a_closed_load_counts_every_call_that_was_answered(server: ServerProcess) -> None:
    before = answered(server)
    client = light_client(server.target, TEXTS)
    phase = summarise(client.closed(2, SECONDS, PATIENCE_S, keep_replies=True), SECONDS)
    client.close()
    assert phase.codes == {"OK": answered(server) - before}
    assert phase.codes["OK"] >= 2
    assert phase.beyond_encoding_p50_us is not None


async def test_loops_of_the_client_count_every_call(server: ServerProcess) -> None:
    before, asked = answered(server), 0

    async def call(client: AsyncClient, number: int) -> None:
        nonlocal asked
        asked += 1
        await client.embed([TEXTS[number % len(TEXTS)]])

    async with AsyncClient(target=server.target) as client:
        latencies_ms = await closed_loops(client, 3, SECONDS, call)
    assert len(latencies_ms) == asked == answered(server) - before
    assert call_rate(latencies_ms, SECONDS).calls_per_second == round(asked / SECONDS, 1)
