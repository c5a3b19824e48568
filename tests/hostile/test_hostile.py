"""Whatever one client does, the server lives, and the others are answered in time."""

from __future__ import annotations

import json
import os
import time

import pytest

from tests.hostile.attacks import ATTACKS, Attack
from tests.hostile.conftest import SETTLE_S, SLACK
from tests.hostile.target import Target
from tests.hostile.watching import MB, Peak, Probe, Size, percentile, watched

MAX_GROWTH_BYTES = 1500 * MB
MAX_P95_S = 1.0
WINDOW_S = 7.0
HEALTH = ("health", "live", "new connection")
ROUND_S = float(os.environ.get("VECSERVE_HOSTILE_SECONDS", "180"))


@pytest.mark.parametrize("name", ATTACKS)
def test_one_attack(target: Target, probe: Probe, quiet: Size, name: str) -> None:
    problems = carried_out(ATTACKS[name], target, probe, quiet, name)
    assert not problems, f"{problems}\n{target.server.log[-4000:]}"


def test_all_attacks_in_turn(target: Target, probe: Probe, quiet: Size) -> None:
    from_s = time.monotonic()
    problems: list[str] = []
    with watched(target.pid) as peak:
        while time.monotonic() < from_s + ROUND_S:
            for name, attack in ATTACKS.items():
                if time.monotonic() >= from_s + ROUND_S:
                    break
                try:
                    attack(target)
                except AssertionError as failure:
                    problems.append(f"{name}: {failure}")
        to_s = time.monotonic()
    problems += verdict(target, probe, quiet, peak, from_s, to_s, "all in turn")
    assert not problems, problems


def carried_out(attack: Attack, target: Target, probe: Probe, quiet: Size, name: str) -> list[str]:
    """Attack, and say what was not as it should be."""
    from_s, problems = time.monotonic(), []
    with watched(target.pid) as peak:
        try:
            attack(target)
        except AssertionError as failure:
            problems.append(str(failure))
        to_s = time.monotonic()
        probe.wait_for(5, 60.0)
        # Of a few answers, the slowest would be the 95th percentile.
        time.sleep(max(0.0, from_s + WINDOW_S - time.monotonic()))
        to_s = max(to_s, from_s + WINDOW_S)
    return problems + verdict(target, probe, quiet, peak, from_s, to_s, name)


def verdict(
    target: Target, probe: Probe, quiet: Size, peak: Peak, from_s: float, to_s: float, name: str
) -> list[str]:
    if target.server.process.poll() is not None:
        return [f"the server died with {target.server.process.returncode}"]
    answers = probe.between(from_s, to_s + 1)
    after = target.settled(quiet, SETTLE_S, SLACK)
    p95_s = {kind: percentile([a for a in answers if a["kind"] == kind], 0.95) for kind in KINDS}
    failed = [answer for answer in answers if answer["problem"]]
    growth_bytes = peak.resident_bytes - quiet.resident_bytes
    print(
        json.dumps(
            {
                "attack": name,
                "seconds": round(to_s - from_s, 1),
                "growth_mb": growth_bytes // MB,
                "p95_ms": {kind: round(seconds * 1000) for kind, seconds in p95_s.items()},
                "answers": len(answers),
                "failed": len(failed),
                "why": sorted({f"{answer['kind']}: {answer['problem']}" for answer in failed})[:5],
                "after": [after.resident_bytes // MB, after.threads, after.descriptors],
                "quiet": [quiet.resident_bytes // MB, quiet.threads, quiet.descriptors],
            }
        )
    )
    problems = []
    if growth_bytes > MAX_GROWTH_BYTES:
        problems.append(f"the server grew by {growth_bytes // MB} MB")
    if failed:
        problems.append(f"{len(failed)} of {len(answers)} answers were {failed[:3]}")
    problems += [
        f"{kind} took {seconds:.2f} s at the 95th percentile"
        for kind, seconds in p95_s.items()
        if seconds > MAX_P95_S
    ]
    if not after.within(0.1, quiet, slack=SLACK):
        problems.append(f"the server was {quiet}, and takes {after} afterwards")
    return problems


KINDS = ("embed", "search", *HEALTH)
