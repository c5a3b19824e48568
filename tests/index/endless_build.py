"""A process that starts a builder on a large job and tells its pid: killed by a test."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np

from vecserve_server.index.building.build_job import BuildJob, RowFiles, write_job
from vecserve_server.index.building.builder_process import BuilderProcess

ROWS, DIM = 200_000, 64


class Announced(BuilderProcess):
    """A builder that says who it is."""

    def _start(self, folder: Path, output: int) -> subprocess.Popen[bytes]:
        child = super()._start(folder, output)
        print(child.pid, flush=True)
        return child


def main(folder: Path) -> None:
    vectors = np.random.default_rng(0).standard_normal((ROWS, DIM)).astype("<f2")
    vectors.tofile(folder / "vectors")
    np.arange(ROWS, dtype="<i8").tofile(folder / "seqs")
    source = RowFiles(seqs=str(folder / "seqs"), vectors=str(folder / "vectors"), left_out="")
    write_job(folder, BuildJob(dim=DIM, sources=(source,)))
    Announced().run(folder, timeout_s=600, given_up=lambda: False)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
