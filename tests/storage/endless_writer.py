"""Write for ever, several jobs in flight, and print the number of each acknowledged operation."""

from __future__ import annotations

import itertools
import os
import sys
from collections import deque
from pathlib import Path

import numpy as np

from vecserve_server.domain.rows import NewRow
from vecserve_server.storage.rows.operations import Delete, Operation, Upsert
from vecserve_server.storage.rows.row_log import RowLog
from vecserve_server.storage.rows.writer import RowWriter

DIM = 8
IN_FLIGHT = 12


def operation(number: int) -> Operation:
    """The operation with this number; a function, so that the reader of the log knows it too."""
    id_ = f"id-{number * 7919 % 23}"
    if number % 5 == 4:
        return Delete(id_)
    vector = np.full(DIM, (number % 100 + 1) / 100, np.float32)
    return Upsert(NewRow(id=id_, vector=vector, payload_json=f'{{"number": {number}}}'))


def main(path: Path) -> None:
    log = RowLog.open(path, dim=DIM, model_digest="0f")
    writer = RowWriter(queue_rows=1000, group_rows=8, on_death=lambda error: os._exit(1))
    writer.start()
    waiting = deque(
        writer.submit(log, [operation(number)], lambda committed: None)
        for number in range(IN_FLIGHT)
    )
    for number in itertools.count():
        waiting.popleft().result()
        os.write(sys.stdout.fileno(), f"{number}\n".encode())
        waiting.append(writer.submit(log, [operation(number + IN_FLIGHT)], lambda committed: None))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
