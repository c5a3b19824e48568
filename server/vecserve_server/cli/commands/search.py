"""`vecserve search`: ask one question.

Owns how an answer is printed. Must not know how it comes about.
"""

from __future__ import annotations

import dataclasses
import math
from enum import StrEnum
from typing import Annotated

import typer

from vecserve_client import EmbedOptions, ReciprocalRank
from vecserve_client.searches import SearchOptions
from vecserve_server.cli.explanation import print_explanation
from vecserve_server.cli.options import DEFAULT_TARGET, Json, NoText, Prompt, Target, Where, connect
from vecserve_server.cli.output import hit_as_dict, print_hits, print_json
from vecserve_server.cli.where import read_where, require_field


class Mode(StrEnum):
    """How rows are found."""

    DENSE = "dense"
    LEXICAL = "lexical"
    HYBRID = "hybrid"


def search(  # noqa: PLR0913, PLR0917 - a command's options are its parameters
    collection: Annotated[str, typer.Argument(metavar="COLLECTION")],
    text: Annotated[str, typer.Argument(metavar="TEXT", help="What to look for.")],
    k: Annotated[int, typer.Option("-k", min=1, max=1000, help="Hits to return.")] = 10,
    mode: Annotated[Mode, typer.Option("--mode", help="By vectors, words or both.")] = Mode.DENSE,
    where: Where = None,
    group_by: Annotated[
        str, typer.Option("--group-by", help="Best hit for each value of a payload field.")
    ] = "",
    lexical_weight: Annotated[
        float,
        typer.Option("--lexical-weight", min=0, max=1000, help="Weight of words in mode hybrid."),
    ] = 1.0,
    min_score: Annotated[
        float | None, typer.Option("--min-score", help="Leave out hits with a lower score.")
    ] = None,
    exact: Annotated[bool, typer.Option("--exact", help="Compare with every row.")] = False,
    explain: Annotated[
        bool, typer.Option("--explain", help="Show how the hits were found.")
    ] = False,
    field: Annotated[
        list[str] | None, typer.Option("--field", help="Payload field to show (repeatable).")
    ] = None,
    prompt: Prompt = None,
    no_text: NoText = False,
    server: Target = DEFAULT_TARGET,
    json: Json = False,
) -> None:
    """Find the rows nearest to a text."""
    options: SearchOptions = {
        "k": k,
        "mode": mode.value,
        "group_by": group_by,
        "min_score": min_score,
        "exact": exact,
        "explain": explain,
        "with_text": not no_text,
    }
    if not math.isclose(lexical_weight, 1.0):
        options["fusion"] = ReciprocalRank(lexical=lexical_weight)
    with connect(server) as client:
        options["where"] = read_where(client, collection, where)
        embedding = EmbedOptions(prompt_name=prompt)
        answer = client.search(collection, text, embed_options=embedding, **options)
        if group_by and not answer.hits:
            require_field(client, collection, "--group-by", group_by)
        for name in field or ():
            if not any(name in (hit.payload or {}) for hit in answer.hits):
                require_field(client, collection, "--field", name)
    if json:
        timings = dataclasses.asdict(answer.timings)
        hits = [hit_as_dict(hit) for hit in answer.hits]
        print_json({"hits": hits, "timings": timings, "explain": answer.explain})
        return
    print_hits(answer.hits, summary_fields=field or ())
    print(f"{len(answer.hits)} hits in {answer.timings.total_us / 1000:.1f} ms")
    if answer.explain is not None:
        print_explanation(answer.explain)
