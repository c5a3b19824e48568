"""`vecserve collections`: create, list, show and drop.

Owns how collections look on the terminal. Must not know how they are stored.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from enum import StrEnum
from typing import Annotated, get_args

import typer

from vecserve_client import Collection, Fields
from vecserve_client.types import FieldType
from vecserve_server.cli.exits import Exit, UsageProblem
from vecserve_server.cli.options import DEFAULT_TARGET, Json, Target, connect
from vecserve_server.cli.output import print_json, print_table, size_text

app = typer.Typer(help="Create, list, show and drop collections.", no_args_is_help=True)

FIELD_TYPES: tuple[FieldType, ...] = get_args(FieldType)


class TokeniserName(StrEnum):
    """How texts are cut into terms."""

    WORDS = "words"
    TRIGRAM = "trigram"


class StemmingName(StrEnum):
    """Which endings of words are cut off."""

    NONE = "none"
    PORTER = "porter"


Name = Annotated[str, typer.Argument(metavar="COLLECTION", help="Name of the collection.")]


@app.command("create")
def create(
    name: Name,
    model: Annotated[
        str, typer.Option("--model", help="Name of the model. Default: the server's.")
    ] = "",
    dim: Annotated[
        int, typer.Option("--dim", min=0, help="Components of a vector; 0: the model's.")
    ] = 0,
    field: Annotated[
        list[str] | None,
        typer.Option("--field", help="Payload field to index, NAME:TYPE (repeatable)."),
    ] = None,
    tokeniser: Annotated[
        TokeniserName, typer.Option("--tokeniser", help="For the text fields.")
    ] = TokeniserName.WORDS,
    stemming: Annotated[
        StemmingName, typer.Option("--stemming", help="For the text fields.")
    ] = StemmingName.NONE,
    discard_text: Annotated[
        bool, typer.Option("--discard-text", help="Keep no texts; prevents re-indexing.")
    ] = False,
    server: Target = DEFAULT_TARGET,
    json: Json = False,
) -> None:
    """Create an empty collection."""
    fields = Fields(
        types=read_field_types(field or ()), tokeniser=tokeniser.value, stemming=stemming.value
    )
    with connect(server) as client:
        made = client.create_collection(
            name, model=model, dim=dim, fields=fields, keep_text=not discard_text
        )
    if json:
        print_json(dataclasses.asdict(made))
    else:
        print(f"created {made.name}: {made.model.name}, dim {made.dim}")


@app.command("list")
def list_all(server: Target = DEFAULT_TARGET, json: Json = False) -> None:
    """List all collections."""
    with connect(server) as client:
        found = client.list_collections()
    if json:
        print_json({"collections": [dataclasses.asdict(collection) for collection in found]})
        return
    rows = [(c.name, c.row_count, c.dim, size_text(c.disk_bytes), c.model.name) for c in found]
    columns = ("name", "rows", "dim", "disk", "model")
    print_table(columns, rows, right=("rows", "dim", "disk"))


@app.command("show")
def show(name: Name, server: Target = DEFAULT_TARGET, json: Json = False) -> None:
    """Describe one collection."""
    with connect(server) as client:
        found = client.get_collection(name)
    if json:
        print_json(dataclasses.asdict(found))
    else:
        print_table(("property", "value"), _properties(found))


@app.command("drop")
def drop(
    name: Name,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    server: Target = DEFAULT_TARGET,
    json: Json = False,
) -> None:
    """Delete a collection with all its rows; ask first."""
    with connect(server) as client:
        found = client.get_collection(name)
        if not yes and not typer.confirm(f"Drop {name} with {found.row_count} rows?", err=True):
            raise typer.Exit(Exit.FAILURE)
        row_count = client.drop_collection(name)
    if json:
        print_json({"name": name, "row_count": row_count})
    else:
        print(f"dropped {name} with {row_count} rows")


def read_field_types(typed: Sequence[str]) -> dict[str, FieldType]:
    """Read NAME:TYPE; raise UsageProblem."""
    types: dict[str, FieldType] = {}
    for text in typed:
        name, _, kind = text.rpartition(":")
        known = next((one for one in FIELD_TYPES if one == kind), None)
        if not name or known is None:
            raise UsageProblem(f"--field {text!r}: is not NAME:TYPE; types are {_listed()}")
        if name in types:
            raise UsageProblem(f"--field {text!r}: {name} comes twice")
        types[name] = known
    return types


def _listed() -> str:
    return ", ".join(FIELD_TYPES)


def _properties(collection: Collection) -> list[tuple[str, object]]:
    return [
        ("name", collection.name),
        ("model", f"{collection.model.name} {collection.model.version}"),
        ("dim", collection.dim),
        ("state", collection.state_reason or collection.state),
        ("rows", collection.row_count),
        ("last seq", collection.last_seq),
        ("disk", size_text(collection.disk_bytes)),
        ("memory", size_text(collection.memory_bytes)),
        ("fields", ", ".join(f"{name}:{kind}" for name, kind in collection.fields.types.items())),
    ]
