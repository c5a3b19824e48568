"""Options that several commands share.

Owns their names and help. Must not know what commands do with them.
"""

from __future__ import annotations

import os
from typing import Annotated, Final

import typer

from vecserve_client import Client, RetryPolicy
from vecserve_server.cli.conditions import HELP as CONDITIONS

DEFAULT_TARGET: Final = "127.0.0.1:8001"
DEFAULT_PATIENCE_S: Final = 60.0

Target = Annotated[
    str,
    typer.Option(
        "--server",
        metavar="HOST:PORT",
        envvar="VECSERVE_SERVER_TARGET",
        help="Server to connect to.",
    ),
]

Patience = Annotated[
    float,
    typer.Option(
        "--patience", metavar="SECONDS", min=0.1, help="Longest wait for the next answer."
    ),
]

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]

NoText = Annotated[bool, typer.Option("--no-text", help="Leave out the texts of the rows.")]

Prompt = Annotated[
    str | None,
    typer.Option("--prompt", help="Name of the prompt for the text. Default: the model's."),
]

Where = Annotated[list[str] | None, typer.Option("--where", help=CONDITIONS)]

Repository = Annotated[
    str | None, typer.Option("--model-repository", metavar="DIR", help="Folder of the models.")
]


def connect(target: str, *, deadline_s: float = DEFAULT_PATIENCE_S) -> Client:
    """Make a client that gives up soon where nobody answers."""
    return Client(target=target, deadline_s=deadline_s, retry=RetryPolicy(max_attempts=3))


def environment() -> dict[str, str]:
    """Copy the variables of this process."""
    return dict(os.environ)
