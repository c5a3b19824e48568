"""`vecserve classify`: give a text the label of its nearest rows.

Owns how the answer is printed. Must not know how it comes about.
"""

from __future__ import annotations

import dataclasses
from typing import Annotated

import typer

from vecserve_server.cli.options import DEFAULT_TARGET, Json, NoText, Target, connect
from vecserve_server.cli.output import hit_as_dict, print_hits, print_json, print_table
from vecserve_server.cli.where import require_field
from vecserve_server.observability.printable import printable


def classify(
    collection: Annotated[str, typer.Argument(metavar="COLLECTION")],
    text: Annotated[str, typer.Argument(metavar="TEXT", help="What to label.")],
    label_field: Annotated[
        str, typer.Option("--label-field", help="Payload field that holds the label.")
    ],
    k: Annotated[int, typer.Option("-k", min=1, max=1000, help="Number of rows that vote.")] = 10,
    min_confidence: Annotated[
        float | None,
        typer.Option("--min-confidence", min=0, max=1, help="Out of scope below. Default: 0.5."),
    ] = None,
    no_text: NoText = False,
    server: Target = DEFAULT_TARGET,
    json: Json = False,
) -> None:
    """Give a text the label that its nearest rows vote for."""
    with connect(server) as client:
        found = client.classify(
            collection,
            text,
            label_field=label_field,
            k=k,
            min_confidence=min_confidence,
            with_text=not no_text,
        )
        if not found.neighbours:
            require_field(client, collection, "--label-field", label_field)
    if json:
        print_json(
            {
                "label": found.label,
                "out_of_scope": found.out_of_scope,
                "scores": [dataclasses.asdict(score) for score in found.scores],
                "neighbours": [hit_as_dict(hit) for hit in found.neighbours],
            }
        )
        return
    print(printable(found.label) if found.label is not None else "out of scope")
    scores = [(f"{score.confidence:.3f}", score.label) for score in found.scores]
    print_table(("confidence", "label"), scores, right=("confidence",))
    print_hits(found.neighbours)
