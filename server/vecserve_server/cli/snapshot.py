"""`vecserve snapshot`: create and restore.

Owns how snapshots look on the terminal. Must not know how they are written.
"""

from __future__ import annotations

import dataclasses
from typing import Annotated

import typer

from vecserve_server.cli.options import DEFAULT_TARGET, Json, Target, connect
from vecserve_server.cli.output import print_json, size_text
from vecserve_server.cli.progress import waiting
from vecserve_server.cli.upkeep import PATIENCE_S

app = typer.Typer(help="Copies of collections on the server's disk.", no_args_is_help=True)

Collection = Annotated[str, typer.Argument(metavar="COLLECTION", help="Name of the collection.")]
Name = Annotated[str, typer.Argument(metavar="NAME", help="Name of the snapshot.")]


@app.command("create")
def create(
    collection: Collection, name: Name, server: Target = DEFAULT_TARGET, json: Json = False
) -> None:
    """Write a consistent copy of a collection while it serves."""
    with connect(server, deadline_s=PATIENCE_S) as client, waiting("copying", silent=json):
        made = client.admin.create_snapshot(collection, name)
    if json:
        print_json({"name": name, **dataclasses.asdict(made)})
    else:
        print(f"wrote {name}: {size_text(made.size_bytes)}, up to seq {made.last_seq}")


@app.command("restore")
def restore(
    name: Name, collection: Collection, server: Target = DEFAULT_TARGET, json: Json = False
) -> None:
    """Make a collection, which must not exist, from a snapshot."""
    with connect(server, deadline_s=PATIENCE_S) as client, waiting("restoring", silent=json):
        row_count = client.admin.restore_snapshot(name, collection)
    if json:
        print_json({"name": name, "collection": collection, "row_count": row_count})
    else:
        print(f"restored {collection} with {row_count} rows")
