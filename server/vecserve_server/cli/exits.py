"""What the exit codes mean, and which failure leads to which.

Owns the table. Must not know commands.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Final

from vecserve_client import Unavailable
from vecserve_client import VecserveError as CallFailed
from vecserve_server.cli.speech import spoken
from vecserve_server.errors import ConfigError, InvalidArgument
from vecserve_server.errors import VecserveError as LocalFailure


class Exit(IntEnum):
    """Exit codes of every command."""

    OK = 0
    FAILURE = 1
    USAGE = 2
    UNREACHABLE = 3
    PARTIAL = 4
    INTERRUPTED = 130


class UsageProblem(Exception):
    """The command line, or a file that it names, is wrong."""


class Interrupted(Exception):
    """The user stopped the command; the message says how far it came."""


class CommandFailed(Exception):
    """The command could not do what it was asked to do."""


def exit_for(error: BaseException) -> tuple[Exit, str]:
    """Look up the exit code of a failure and the line that explains it."""
    code = next((code for kinds, code in _CODES if isinstance(error, kinds)), Exit.FAILURE)
    return code, _explain(error)


_CODES: Final[tuple[tuple[tuple[type[BaseException], ...], Exit], ...]] = (
    ((KeyboardInterrupt, Interrupted), Exit.INTERRUPTED),
    ((UsageProblem, ConfigError, InvalidArgument, ModuleNotFoundError), Exit.USAGE),
    ((Unavailable,), Exit.UNREACHABLE),
)

_SPEAKING: Final = (UsageProblem, CommandFailed, Interrupted, LocalFailure)
"""Failures whose message is meant for the user."""


def _explain(error: BaseException) -> str:
    match error:
        case KeyboardInterrupt():
            return "interrupted"
        case ModuleNotFoundError():
            return f"{error.name} is not installed: install vecserve[server]"
        case OSError():
            return f"{error.filename or 'output'}: {error.strerror or error}"
        case CallFailed():
            return spoken(str(error))
        case _ if isinstance(error, _SPEAKING):
            return str(error)
    return f"internal error: {type(error).__name__}: {error}"
