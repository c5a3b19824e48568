"""Time to open an index and the memory that it takes, in a process of its own.

Run by `index.py`: FOLDER DIM QUERIES.npy. Prints JSON.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
from index_subject import Subject
from index_timing import one, quantiles, timed


def main() -> None:
    """Open, search, tell."""
    folder, dim, queries = Path(sys.argv[1]), int(sys.argv[2]), np.load(sys.argv[3])
    before = _memory_bytes()
    subject = Subject.open(folder, dim)
    opened = _memory_bytes()
    times = timed(lambda query: one(subject, query), queries)
    searched = _memory_bytes()
    rows = len(subject.index)
    stats = subject.index.stats
    report = {
        "open_s": round(subject.open_s, 3),
        "first_search_ms": round(times[0] / 1e3, 1),
        "rows": rows,
        "sealed_rows": stats.sealed_rows,
        "anonymous_bytes_per_row_open": round((opened[0] - before[0]) / rows, 1),
        "anonymous_bytes_per_row_searched": round((searched[0] - before[0]) / rows, 1),
        "file_bytes_per_row_searched": round((searched[1] - before[1]) / rows, 1),
        "counted_bytes_per_row": round(subject.index.memory_bytes / rows, 1),
        **quantiles(times),
    }
    subject.close()
    print(json.dumps(report))


def _memory_bytes() -> tuple[int, int]:
    """Resident memory that is only ours, and resident pages of files, which the kernel may drop."""
    found = {}
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        name, _, value = line.partition(":")
        found[name] = value
    return int(found["RssAnon"].split()[0]) * 1024, int(found["RssFile"].split()[0]) * 1024


if __name__ == "__main__":
    main()
