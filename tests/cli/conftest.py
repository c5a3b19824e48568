"""Command lines against the fake server of the client's tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest

from tests.client.fake_server import FakeServer, running
from vecserve_server.cli.program import run


@dataclass(frozen=True)
class Outcome:
    code: int
    out: str
    err: str


Vecserve = Callable[..., Outcome]


@pytest.fixture
def server() -> FakeServer:
    return FakeServer()


@pytest.fixture
def target(server: FakeServer) -> Iterator[str]:
    with running(server) as address:
        yield address


@pytest.fixture
def vecserve(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Vecserve:
    """Run one command line in this process."""
    monkeypatch.setenv("COLUMNS", "80")

    def call(*args: str) -> Outcome:
        code = run(args)
        captured = capsys.readouterr()
        return Outcome(code=code, out=captured.out, err=captured.err)

    return call
