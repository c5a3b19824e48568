"""The entry point of the `vecserve` command.

Owns the check that the command's own libraries are installed, and the end of the process. Must not
import those libraries itself.
"""

from __future__ import annotations

import os
import sys
from typing import NoReturn

EXTRA_LIBRARIES = frozenset({"typer", "rich"})


def main() -> NoReturn:
    """Run the command line of this process, and end it with the exit code."""
    code = _run()
    try:
        sys.stdout.flush()
    except OSError as error:
        code = code or 1
        print(f"vecserve: output: {error.strerror}", file=sys.stderr)
    # Every command has closed and written what it had to by now, and an interpreter that winds
    # itself up may wait for ever for gRPC's threads (grpc/grpc#20026).
    os._exit(code)


def _run() -> int:
    try:
        from vecserve_server.cli.program import run  # noqa: PLC0415
    except ModuleNotFoundError as missing:
        if missing.name not in EXTRA_LIBRARIES:
            raise
        print("vecserve: the command needs more packages: install vecserve[cli]", file=sys.stderr)
        return 2
    return run(sys.argv[1:])


if __name__ == "__main__":
    main()
