"""Nothing leaves the machine, no name is asked for, no file stays behind.

Every command, the builder process and a Python client run in a network of their own that has no way
out, with an empty home folder. `make test-quiet` has each of them stay for a minute.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.importing.tiny_bert import CheckpointFiles
from tests.quiet.namespace import FORBIDDEN
from tests.quiet.scenario import WATCHED

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
STAY_S = float(os.environ.get("VECSERVE_QUIET_S", "0"))
TIMEOUT_S = 600.0 + STAY_S
STEPS = {"serve", "index", "search", "embed", "client", "builder", "models add", "demo", "later"}
TRAP = """
import json, socket
from tests.quiet.namespace import attempts, enter, more
enter()
before = attempts()
{attempt}
print(json.dumps(more(before)))
"""


def in_namespace(*command: str) -> str:
    """Run a program that enters a namespace; skip where this machine lets nobody do so."""
    search_path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    run = subprocess.run(
        [sys.executable, *command],
        check=False,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        env=os.environ | {"PYTHONPATH": search_path},
    )
    if run.returncode == FORBIDDEN:
        pytest.skip("the kernel or the container's profile forbids network namespaces")
    assert run.returncode == 0, run.stderr
    return run.stdout


@pytest.mark.parametrize(
    ("attempt", "counters"),
    [
        ("pass", set()),
        ("socket.create_server(('127.0.0.1', 0))", set()),
        ("socket.socket().connect_ex(('192.0.2.1', 443))", {"Ip.OutNoRoutes"}),
        ("socket.socket(socket.AF_INET6).connect_ex(('2001:db8::1', 443))", {"Ip6.OutNoRoutes"}),
        (
            "socket.socket(type=socket.SOCK_DGRAM).sendto(b'?', ('127.0.0.53', 53))",
            {"Udp.OutDatagrams"},
        ),
    ],
)
def test_whatever_tries_to_get_out_is_counted(attempt: str, counters: set[str]) -> None:
    assert set(json.loads(in_namespace("-c", TRAP.format(attempt=attempt)))) == counters


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("quiet")


@pytest.fixture(scope="module")
def steps(folder: Path, serving_repository: Path) -> Mapping[str, Mapping[str, Any]]:
    checkpoint = CheckpointFiles().write(folder / "tiny")
    where = folder / "run"
    where.mkdir()
    arguments = (str(where), str(serving_repository), str(checkpoint), str(STAY_S))
    found: Mapping[str, Mapping[str, Any]] = json.loads(
        in_namespace("-m", "tests.quiet.scenario", *arguments)
    )
    return found


def test_every_command_works_without_a_network(steps: Mapping[str, Mapping[str, Any]]) -> None:
    assert steps.keys() == STEPS
    failed = {name: step for name, step in steps.items() if step["code"] != "0"}
    assert not failed


def test_nothing_looks_a_name_up_or_leaves_the_machine(
    steps: Mapping[str, Mapping[str, Any]],
) -> None:
    assert {name: step["tried"] for name, step in steps.items() if step["tried"]} == {}


def test_nothing_stays_behind(folder: Path, steps: Mapping[str, Mapping[str, Any]]) -> None:
    assert steps
    left = {place: sorted((folder / "run" / place).rglob("*")) for place in WATCHED}
    assert {place: found for place, found in left.items() if found} == {}
