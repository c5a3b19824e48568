"""`vecserve search`: ask one question.

Owns how an answer is printed. Must not know how it comes about.
"""

from __future__ import annotations

import dataclasses
from typing import Annotated

import typer

from vecserve_server.cli.options import DEFAULT_TARGET, Json, Target, connect
from vecserve_server.cli.output import hit_as_dict, print_hits, print_json


def search(
    collection: Annotated[str, typer.Argument(metavar="COLLECTION")],
    text: Annotated[str, typer.Argument(metavar="TEXT", help="What to look for.")],
    k: Annotated[int, typer.Option("-k", min=1, max=1000, help="Hits to return.")] = 10,
    min_score: Annotated[
        float | None, typer.Option("--min-score", min=-1, max=1, help="Leave out hits below.")
    ] = None,
    exact: Annotated[bool, typer.Option("--exact", help="Compare with every row.")] = False,
    field: Annotated[
        list[str] | None, typer.Option("--field", help="Payload field to show (repeatable).")
    ] = None,
    server: Target = DEFAULT_TARGET,
    json: Json = False,
) -> None:
    """Find the rows nearest to a text."""
    with connect(server) as client:
        answer = client.search(collection, text, k=k, min_score=min_score, exact=exact)
    if json:
        timings = dataclasses.asdict(answer.timings)
        print_json({"hits": [hit_as_dict(hit) for hit in answer.hits], "timings": timings})
        return
    print_hits(answer.hits, summary_fields=field or ())
    print(f"{len(answer.hits)} hits in {answer.timings.total_us / 1000:.1f} ms")
