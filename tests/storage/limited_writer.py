"""Write more than the file-size limit allows, then a little; print what happened."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from vecserve_server.domain.rows import NewRow
from vecserve_server.errors import StorageError
from vecserve_server.storage.rows.operations import Upsert
from vecserve_server.storage.rows.row_log import RowLog


def main(path: Path) -> None:
    log = RowLog.open(path, dim=4, model_digest="0f")
    try:
        log.commit([_upsert("big", "x" * 1_000_000)])
    except StorageError as error:
        print(type(error).__name__)
    print("usable:", *log.commit([_upsert("small", "{}")]).seqs)
    log.close()


def _upsert(id_: str, payload: str) -> Upsert:
    return Upsert(NewRow(id=id_, vector=np.ones(4, np.float32), payload_json=payload))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
