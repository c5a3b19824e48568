"""Run a scenario again and again, with a fault one file-system call later each time.

`python -m tests.crash.sweep SCENARIO KIND FOLDER STRIDE FIRST` prints what it did as JSON. Each run
and each look at what it left is a fork of this process, which has everything imported: that costs
milliseconds.
"""

from __future__ import annotations

import faulthandler
import json
import os
import shutil
import signal
import sys
import threading
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from tests.crash.faults import FOR_EVER, Faults, Kind, faults_here, kept_folder
from tests.crash.scenarios import SCENARIOS, Journal, Scenario

MAX_STEPS = 5000
HANGS_AFTER_S = 600.0
_FAILED = 3


def main(arguments: list[str]) -> int:
    """Run one sweep; 0 if every fault was survived."""
    name, kind, folder, stride, first = arguments
    swept = sweep(SCENARIOS[name], Kind[kind], Path(folder), stride=int(stride), first=int(first))
    print(json.dumps(swept))
    return 0


def sweep(scenario: Scenario, kind: Kind, folder: Path, *, stride: int, first: int) -> Counter[str]:
    """Let every `stride`-th step from `first` on fail in a run of its own; count the outcomes."""
    outcomes: Counter[str] = Counter()
    base = folder / "base"
    base.mkdir()
    prepared = folder / "prepared"
    # In this process, so that every fork has it warm. No thread is left when the forks begin.
    scenario.prepare(base, Journal(prepared))
    shutil.copytree(base, folder / "checked")
    scenario.check(folder / "checked", Journal(prepared))
    assert threading.active_count() == 1
    for step in range(first, MAX_STEPS, stride):
        root, journal = folder / f"step-{step}", Journal(folder / f"journal-{step}")
        shutil.copytree(base, root)
        shutil.copy(prepared, journal.path)
        ended = in_fork(lambda: _act(scenario, root, journal, faults_here(), kind, step))  # noqa: B023
        if ended != 0 and not (kind.is_death and ended == -signal.SIGKILL):
            raise SystemExit(f"{root}: {kind.name} at step {step}: the run ended with {ended}")
        _must(in_fork(lambda: scenario.check(root, journal)), "check", root)  # noqa: B023
        outcomes[journal.outcome() if ended == 0 else "killed"] += 1
        reached = journal.was_reached() if ended == 0 else True
        shutil.rmtree(root)
        shutil.rmtree(kept_folder(root), ignore_errors=True)
        if not reached:
            return outcomes
    raise SystemExit(f"{scenario}: does not end within {MAX_STEPS} runs")


def in_fork(work: Callable[[], object]) -> int:
    """Do work in a fork; return 0, or minus the signal that ended it, or what went wrong."""
    sys.stdout.flush()
    child = os.fork()
    if not child:
        code = _FAILED
        faulthandler.dump_traceback_later(HANGS_AFTER_S, exit=True)
        try:
            work()
            code = 0
        except BaseException:  # noqa: BLE001
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status)


def _act(
    scenario: Scenario, root: Path, journal: Journal, faults: Faults, kind: Kind, step: int
) -> None:
    lasting = FOR_EVER if kind is Kind.NO_SPACE else 1
    faults.arm(root, kind, step, steps=lasting)

    def mend() -> None:
        journal.note("reached" if faults.steps() > step else "passed")
        faults.disarm()

    scenario.act(root, journal, mend)


def _must(ended: int, what: str, root: Path) -> None:
    if ended:
        raise SystemExit(f"{root}: {what} ended with {ended}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
