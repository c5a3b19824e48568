"""Labels by the vote of neighbours, over gRPC; on banking77 where its files are at hand."""

from __future__ import annotations

import asyncio
import json

import pytest

from tests.e2e.server_process import ServerProcess
from vecserve_client import AsyncClient, Client, InvalidArgument, NotFound, Record
from vecserve_server.cli.program import run
from vecserve_server.measuring.datasets.banking77 import banking77_folder, read_labelled
from vecserve_server.measuring.datasets.test_data import VARIABLE
from vecserve_server.measuring.quality.classifying import calibration_error, index, judged

TEXTS = {
    "card": ["my card was stolen", "I lost my bank card", "somebody took my card"],
    "rate": ["what is the exchange rate", "how are currencies exchanged", "euro to dollar rate"],
}


@pytest.fixture(scope="module")
def tickets(server: ServerProcess) -> str:
    with Client(target=server.target) as client:
        client.create_collection("tickets")
        labelled = [(text, {"intent": label}) for label, some in TEXTS.items() for text in some]
        rows = [*labelled, ("my card was stolen!", {"other": "card"})]
        client.upsert(
            "tickets",
            [
                Record(id=str(number), text=text, payload=payload)
                for number, (text, payload) in enumerate(rows)
            ],
        )
    return "tickets"


def test_the_nearest_rows_give_their_label(client: Client, tickets: str) -> None:
    found = client.classify(tickets, "I lost my card", label_field="intent")
    assert found.label == "card" == found.scores[0].label
    assert found.scores[0].confidence > 0.5 > found.scores[1].confidence
    assert found.neighbours[0].id == "1"
    assert {hit.payload["intent"] for hit in found.neighbours if hit.payload} == set(TEXTS)
    assert found.timings.total_us > 0


def test_what_is_far_from_every_row_is_out_of_scope(client: Client, tickets: str) -> None:
    found = client.classify(tickets, "how tall is the Eiffel tower", label_field="intent")
    assert found.label is None
    assert found.neighbours
    loose = client.classify(
        tickets, "how tall is the Eiffel tower", label_field="intent", min_confidence=0
    )
    assert loose.label == found.scores[0].label


def test_rows_without_the_label_have_no_vote(client: Client, tickets: str) -> None:
    found = client.classify(tickets, "my card was stolen!", label_field="other")
    assert (found.label, len(found.neighbours)) == ("card", 1)
    nothing = client.classify(tickets, "my card was stolen!", label_field="none")
    assert (nothing.label, nothing.scores, nothing.neighbours) == (None, (), ())


def test_bad_requests_name_the_field(client: Client, tickets: str) -> None:
    for arguments, match in (
        ({"label_field": ""}, "label_field"),
        ({"label_field": "x" * 129}, "label_field"),
        ({"label_field": "intent", "min_confidence": 1.5}, "min_confidence"),
        ({"label_field": "intent", "min_confidence": float("nan")}, "min_confidence"),
        ({"label_field": "intent", "k": 1001}, "k: is 1001"),
    ):
        with pytest.raises(InvalidArgument, match=match):
            client.classify(tickets, "x", **arguments)
    with pytest.raises(NotFound, match="'nobody'"):
        client.classify("nobody", "x", label_field="intent")


def test_the_asynchronous_client_and_the_command_line_agree(
    server: ServerProcess, client: Client, tickets: str, capsys: pytest.CaptureFixture[str]
) -> None:
    async def ask() -> str | None:
        async with AsyncClient(target=server.target) as other:
            return (await other.classify(tickets, "euro rate", label_field="intent")).label

    assert asyncio.run(ask()) == "rate"
    command = ["classify", tickets, "euro rate", "--label-field", "intent"]
    assert run([*command, "--server", server.target, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["label"] == "rate"
    assert run([*command, "--server", server.target]) == 0
    assert capsys.readouterr().out.startswith("rate\n")


@pytest.mark.slow
def test_banking77(server: ServerProcess) -> None:
    data = banking77_folder()
    if data is None:
        pytest.skip(f"{VARIABLE} does not name a folder with text/banking77")
    train, test = read_labelled(data / "train.csv"), read_labelled(data / "test.csv")
    with Client(target=server.target, deadline_s=300) as client:
        index(client, "banking", train)
    right, confidence = judged(server.target, "banking", test, k=10)
    assert right.mean() >= 0.90
    assert calibration_error(right, confidence) < 0.1
