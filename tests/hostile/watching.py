"""What is seen of a server from outside while somebody is at it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
SAMPLE_S = 0.02
MB = 1_000_000


@dataclass(frozen=True, kw_only=True)
class Size:
    """What a process takes."""

    resident_bytes: int
    threads: int
    descriptors: int

    def within(self, share: float, of: Size, *, slack: Size) -> bool:
        """Tell whether nothing is larger than `of` by more than a share, or than the slack."""
        return all(
            mine <= other + max(other * share, spare)
            for mine, other, spare in (
                (self.resident_bytes, of.resident_bytes, slack.resident_bytes),
                (self.threads, of.threads, slack.threads),
                (self.descriptors, of.descriptors, slack.descriptors),
            )
        )


def size_of(pid: int) -> Size:
    proc = Path(f"/proc/{pid}")
    return Size(
        resident_bytes=int((proc / "statm").read_text().split()[1]) * PAGE_BYTES,
        threads=len(list((proc / "task").iterdir())),
        descriptors=len(list((proc / "fd").iterdir())),
    )


@dataclass
class Peak:
    """The most memory that a process took while it was watched."""

    resident_bytes: int = 0
    descriptors: int = 0
    threads: int = 0


@contextmanager
def watched(pid: int) -> Iterator[Peak]:
    """Sample a process while the block runs."""
    peak, done = Peak(), threading.Event()

    def sample() -> None:
        while not done.wait(SAMPLE_S):
            try:
                now = size_of(pid)
            except OSError:  # it is gone, which the test will find
                return
            peak.resident_bytes = max(peak.resident_bytes, now.resident_bytes)
            peak.descriptors = max(peak.descriptors, now.descriptors)
            peak.threads = max(peak.threads, now.threads)

    thread = threading.Thread(target=sample, daemon=True)
    thread.start()
    try:
        yield peak
    finally:
        done.set()
        thread.join()


@dataclass
class Probe:
    """The other client's process and what it was answered."""

    process: subprocess.Popen[str]
    answers: list[dict[str, object]] = field(default_factory=list)

    def between(self, from_s: float, to_s: float) -> list[dict[str, object]]:
        return [
            answer for answer in [*self.answers] if from_s <= float(str(answer["at_s"])) <= to_s
        ]

    def wait_for(self, answers: int, timeout_s: float) -> None:
        """Wait until so many more calls have been answered."""
        wanted, until_s = len(self.answers) + answers, time.monotonic() + timeout_s
        while len(self.answers) < wanted:
            assert self.process.poll() is None, "the probe died"
            assert time.monotonic() < until_s, "the probe gets no answers"
            time.sleep(SAMPLE_S)


@contextmanager
def probing(target: str) -> Iterator[Probe]:
    """Run the other client while the block runs."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.hostile.probe", target],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    probe = Probe(process)

    def read() -> None:
        assert process.stdout is not None
        for line in process.stdout:
            probe.answers.append(json.loads(line))

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    try:
        yield probe
    finally:
        assert process.stdin is not None
        process.stdin.close()
        process.wait(60)
        thread.join(10)
        assert process.stdout is not None
        process.stdout.close()


def percentile(answers: list[dict[str, object]], share: float) -> float:
    seconds = sorted(float(str(answer["seconds"])) for answer in answers)
    return seconds[min(len(seconds) - 1, int(len(seconds) * share))] if seconds else 0.0
