"""Do one thing and stay for a while: `lingering SECONDS DONE_FILE WORK ARGUMENT…`.

An uploader may start long after a command has done its work. The work is a `vecserve` command, or
`builder` with a job's folder, or `client` with a server's address.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from vecserve_client import Client, Record


def _build(folder: str) -> int:
    from vecserve_server.index.building import builder  # noqa: PLC0415 - nothing else may import it

    return builder.main([folder, str(os.getppid())])


def _ask(target: str) -> int:
    with Client(target=target) as client:
        client.upsert("docs", [Record(id="from-python", text="a red bicycle")])
        return 0 if client.search("docs", "something to ride", k=1).hits else 1


def _command(*arguments: str) -> int:
    from vecserve_server.cli.program import run  # noqa: PLC0415 - a client does without it

    return run(arguments)


if __name__ == "__main__":
    stay_s, done, work, *rest = sys.argv[1:]
    others = {"builder": _build, "client": _ask}
    code = others[work](*rest) if work in others else _command(work, *rest)
    written = Path(f"{done}.part")
    written.write_text(str(code), encoding="utf-8")
    written.rename(done)  # whoever sees the file sees what is in it
    time.sleep(float(stay_s))
    os._exit(code)
