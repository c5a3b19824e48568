"""Priorities, timeouts and deadlines of the stock client, on a text encoder."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException

from tests.e2e.own_repository import Repository, eventually
from tests.e2e.server_process import ServerProcess
from tests.e2e.triton_requests import MODEL

PRIORITIES = (3, 0, 1, 5, 4)


def long_text(number: int) -> triton.InferInput:
    """One that fills a run."""
    tensor = triton.InferInput("text", [1, 1], "BYTES")
    tensor.set_data_from_numpy(np.array([[f"{number} {'word ' * 300}".encode()]], object))
    return tensor


def test_what_waits_is_served_by_priority_and_refused_when_its_time_is_over(
    start: Callable[..., ServerProcess], repository: Repository
) -> None:
    text = repository.config().read_text()
    alone = text.replace("{ kind: KIND_CPU }", "{ kind: KIND_CPU count: 1 }")
    assert alone != text
    repository.config().write_text(alone)
    server = start(delay_scheduler=len(PRIORITIES))
    answered: list[int] = []

    def note(number: int, result: object, error: object) -> None:
        answered.append(number if error is None else -1)

    with triton.InferenceServerClient(server.target) as stock:
        # Nothing is served before the hook's number of texts wait at once.
        for options, status, words in (
            ({"timeout": 20_000}, "UNAVAILABLE", "Request timeout expired"),
            ({"client_timeout": 0.05}, "DEADLINE_EXCEEDED", "(?i)deadline"),
        ):
            with pytest.raises(InferenceServerException, match=words) as refusal:
                stock.infer(MODEL, [long_text(0)], **options)
            assert refusal.value.status() == f"StatusCode.{status}"
        for number, priority in enumerate(PRIORITIES):
            stock.async_infer(
                MODEL, [long_text(number)], callback=partial(note, number), priority=priority
            )
        eventually(lambda: len(answered) == len(PRIORITIES))
    assert answered == [2, 1, 0, 4, 3]
