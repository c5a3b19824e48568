"""What /proc says of processes."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import numpy as np

from vecserve_server.measuring.processes import cpu_s, descendants, own_memory


def test_cpu_time_is_that_of_the_processes_and_their_children() -> None:
    spin = "import time\nwhile time.process_time() < 0.5: pass\ninput()"
    with subprocess.Popen([sys.executable, "-c", spin], stdin=subprocess.PIPE) as process:
        deadline_s = time.monotonic() + 30
        assert process.pid in descendants(os.getpid())
        while cpu_s([process.pid]) < 0.25 and time.monotonic() < deadline_s:
            time.sleep(0.02)
        assert 0.25 <= cpu_s([process.pid]) < 2
        process.communicate(b"\n")
    assert cpu_s([process.pid]) == 0


def test_memory_that_is_written_is_anonymous() -> None:
    before = own_memory()
    held = np.ones(32 << 20, np.uint8)
    grown = own_memory().anonymous_bytes - before.anonymous_bytes
    assert held.nbytes * 0.9 <= grown <= held.nbytes * 1.5
