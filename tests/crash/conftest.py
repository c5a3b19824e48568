"""How the crash suite is run: `make test-crash`.

VECSERVE_CRASH_ROUNDS, VECSERVE_CRASH_STRIDE and VECSERVE_CRASH_SEED make it longer or shorter, and
repeat what it found.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

import pytest

from tests.crash.faults import COMPILER, NO_COMPILER, Kind, build_library, environ_with

ROOT = Path(__file__).parents[2]
STRIDE = int(os.environ.get("VECSERVE_CRASH_STRIDE", "1"))
"""Only every so manieth step of those that a test would take is taken."""
_SHARDS = 2
_TIMEOUT_S = 1200.0


class Sweep(Protocol):
    """Let every `stride`-th step of a scenario fail; returns the outcomes and their counts."""

    def __call__(
        self, scenario: str, kind: Kind, *, stride: int, library: Path | None
    ) -> Counter[str]: ...


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The library that lets calls fail."""
    if COMPILER is None:
        pytest.skip(NO_COMPILER)
    return build_library(tmp_path_factory.mktemp("faults"))


@pytest.fixture
def sweep(tmp_path: Path) -> Sweep:
    """Run sweeps, each in two processes that share its steps."""

    def run(scenario: str, kind: Kind, *, stride: int, library: Path | None) -> Counter[str]:
        def run_shard(shard: int) -> Counter[str]:
            folder = tmp_path / f"{kind.name}-{shard}"
            folder.mkdir()
            steps = [str(stride * STRIDE * _SHARDS), str(stride * STRIDE * shard)]
            arguments = (scenario, kind.name, str(folder), *steps)
            return Counter(run_child("sweep", *arguments, library=library))

        with ThreadPoolExecutor(_SHARDS) as pool:
            outcomes = sum(pool.map(run_shard, range(_SHARDS)), Counter[str]())
        print(f"{scenario}, {kind.name}: {dict(outcomes)}")
        return outcomes

    return run


def run_child(module: str, *arguments: str, library: Path | None) -> Any:
    """Run a module of this folder in a process of its own; return what it printed."""
    search_path = os.pathsep.join([str(ROOT), *filter(None, sys.path)])
    done = subprocess.run(
        [sys.executable, "-m", f"tests.crash.{module}", *arguments],
        env=environ_with(library) | {"PYTHONPATH": search_path},
        capture_output=True,
        text=True,
        timeout=_TIMEOUT_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)
