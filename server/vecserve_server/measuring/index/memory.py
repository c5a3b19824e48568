"""Time to open an index and the memory that it takes.

In a process of its own: `python -m vecserve_server.measuring.index.memory FOLDER QUERIES.npy`
prints JSON.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from vecserve_server.measuring.index.data import Vectors
from vecserve_server.measuring.index.subject import Subject
from vecserve_server.measuring.index.timing import K, quantiles, timed_us
from vecserve_server.measuring.processes import own_memory
from vecserve_server.measuring.reports import Report, print_report


def opened_in_own_process(folder: Path, queries: Vectors) -> Report:
    """Open the index in a new process, search, and return what that took."""
    with tempfile.NamedTemporaryFile(suffix=".npy") as file:
        np.save(file.name, queries)
        command = [sys.executable, "-m", __name__, str(folder), file.name]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE)  # noqa: S603  our own
    report: Report = json.loads(done.stdout)
    return report


def opened(folder: Path, queries: Vectors) -> Report:
    """Open the index, search, and tell what that took."""
    before = own_memory()
    subject = Subject.open(folder, queries.shape[1])
    after_open = own_memory()
    times_us = timed_us(lambda query: subject.search_one(query, K), queries)
    searched = own_memory()
    rows, stats = len(subject.index), subject.index.stats
    open_bytes = after_open.anonymous_bytes - before.anonymous_bytes
    searched_bytes = searched.anonymous_bytes - before.anonymous_bytes
    report: Report = {
        "open_s": round(subject.open_s, 3),
        "first_search_ms": round(times_us[0] / 1e3, 1),
        "rows": rows,
        "sealed_rows": stats.sealed_rows,
        "anonymous_bytes_per_row_open": round(open_bytes / rows, 1),
        "anonymous_bytes_per_row_searched": round(searched_bytes / rows, 1),
        "file_bytes_per_row_searched": round((searched.file_bytes - before.file_bytes) / rows, 1),
        "counted_bytes_per_row": round(subject.index.memory_bytes / rows, 1),
        **quantiles(times_us),
    }
    subject.close()
    return report


if __name__ == "__main__":
    print_report(opened(Path(sys.argv[1]), np.load(sys.argv[2])))
