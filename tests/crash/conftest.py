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
from pathlib import Path
from typing import Protocol

import pytest

from tests.crash.faults import COMPILER, NO_COMPILER, Kind, build_library, environ_with

ROOT = Path(__file__).parents[2]
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
        stride *= int(os.environ.get("VECSERVE_CRASH_STRIDE", "1"))
        environ = environ_with(library) | {
            "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, sys.path)])
        }
        children = []
        for shard in range(_SHARDS):
            folder = tmp_path / f"{kind.name}-{shard}"
            folder.mkdir()
            steps = [str(stride * _SHARDS), str(stride * shard)]
            children.append(
                subprocess.Popen(
                    [
                        sys.executable,
                        "-m",
                        "tests.crash.sweep",
                        scenario,
                        kind.name,
                        folder,
                        *steps,
                    ],
                    env=environ,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    text=True,
                )
            )
        outcomes: Counter[str] = Counter()
        for child in children:
            stdout, stderr = child.communicate(timeout=_TIMEOUT_S)
            assert child.returncode == 0, stderr
            outcomes += Counter(json.loads(stdout))
        print(f"{scenario}, {kind.name}: {dict(outcomes)}")
        return outcomes

    return run
