"""`vecserve embed`: turn texts into vectors.

Owns how vectors are printed. Must not know how they are computed.
"""

from __future__ import annotations

import sys
from typing import Annotated

import numpy as np
import typer

from vecserve_client import EmbedOptions, EmbedResult
from vecserve_server.cli.exits import Exit, UsageProblem
from vecserve_server.cli.options import DEFAULT_TARGET, Json, Target, connect
from vecserve_server.cli.output import complain, print_json, print_table


def embed(
    texts: Annotated[
        list[str] | None,
        typer.Argument(metavar="[TEXT]...", help="Texts to embed. Default: the lines of stdin."),
    ] = None,
    model: Annotated[
        str, typer.Option("--model", help="Name of the model. Default: the server's.")
    ] = "",
    prompt: Annotated[
        str | None, typer.Option("--prompt", help="Name of one of the model's prompts.")
    ] = None,
    dimensions: Annotated[int, typer.Option("--dimensions", min=0, help="0: all.")] = 0,
    server: Target = DEFAULT_TARGET,
    json: Json = False,
) -> None:
    """Embed texts, or the lines of standard input."""
    wanted = texts or _stdin_lines()
    if not wanted:
        raise UsageProblem("no texts: name some, or write lines to standard input")
    options = EmbedOptions(prompt_name=prompt, dimensions=dimensions)
    with connect(server) as client:
        result = client.embed(wanted, model=model, options=options)
    if json:
        print_json(_as_dict(result))
    else:
        _print_vectors(wanted, result)
    for position, error in result.errors.items():
        complain(f"text {position + 1}: {error}")
    if result.errors:
        raise typer.Exit(Exit.PARTIAL)


def _stdin_lines() -> list[str]:
    if sys.stdin.isatty():
        return []
    try:
        return [line.rstrip("\r\n") for line in sys.stdin]
    except UnicodeDecodeError as error:
        raise UsageProblem(f"standard input is not UTF-8 (byte {error.start})") from error


def _as_dict(result: EmbedResult) -> dict[str, object]:
    return {
        "model": result.model.name,
        "dim": int(result.vectors.shape[1]),
        "tokens": result.tokens.tolist(),
        "vectors": [
            None if position in result.errors else [float(x) for x in vector]
            for position, vector in enumerate(result.vectors)
        ],
    }


def _print_vectors(texts: list[str], result: EmbedResult) -> None:
    rows = [
        (int(count), np.array2string(vector[:4], precision=4, sign=" ")[1:-1], text)
        for text, vector, count in zip(texts, result.vectors, result.tokens, strict=True)
    ]
    print_table(("tokens", "first components", "text"), rows, right=("tokens",))
    print(f"{result.model.name}, dim {result.vectors.shape[1]}")
