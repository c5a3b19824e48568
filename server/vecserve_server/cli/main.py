"""The entry point of the `vecserve` command.

Owns the check that the command's own libraries are installed. Must not import them itself.
"""

from __future__ import annotations

import sys

EXTRA_LIBRARIES = frozenset({"typer", "rich"})


def main() -> int:
    """Run the command line of this process; returns the exit code."""
    try:
        from vecserve_server.cli.program import run  # noqa: PLC0415
    except ModuleNotFoundError as missing:
        if missing.name not in EXTRA_LIBRARIES:
            raise
        print("vecserve: the command needs more libraries: install vecserve[cli]", file=sys.stderr)
        return 2
    return run(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
