"""`vecserve snapshot`: create, list, restore and delete.

Owns how snapshots look on the terminal. Must not know how they are written.
"""

from __future__ import annotations

import dataclasses
from typing import Annotated

import typer

from vecserve_server.cli.commands.upkeep import PATIENCE_S
from vecserve_server.cli.options import DEFAULT_TARGET, Json, Target, connect
from vecserve_server.cli.output import print_json, print_table, size_text
from vecserve_server.cli.progress import waiting

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
        print_json(dataclasses.asdict(made))
    else:
        print(f"wrote {name}: {size_text(made.size_bytes)}, up to seq {made.last_seq}")


@app.command("list")
def list_all(server: Target = DEFAULT_TARGET, json: Json = False) -> None:
    """List all snapshots."""
    with connect(server) as client:
        found = client.admin.list_snapshots()
    if json:
        print_json({"snapshots": [dataclasses.asdict(snapshot) for snapshot in found]})
    else:
        print_table(
            ("snapshot", "collection", "size", "last seq"),
            [
                (one.name, one.collection, size_text(one.size_bytes), one.last_seq)
                for one in found
                if not one.problem
            ],
        )
        for one in found:
            if one.problem:
                print(f"{one.name}: {one.problem}")


@app.command("delete")
def delete(name: Name, server: Target = DEFAULT_TARGET, json: Json = False) -> None:
    """Delete a snapshot; collections that were made from it stay."""
    with connect(server, deadline_s=PATIENCE_S) as client:
        client.admin.delete_snapshot(name)
    if json:
        print_json({"name": name})
    else:
        print(f"deleted {name}")


@app.command("restore")
def restore(
    name: Name, collection: Collection, server: Target = DEFAULT_TARGET, json: Json = False
) -> None:
    """Create a collection from a snapshot; the collection must not exist."""
    with connect(server, deadline_s=PATIENCE_S) as client, waiting("restoring", silent=json):
        row_count = client.admin.restore_snapshot(name, collection)
    if json:
        print_json({"name": name, "collection": collection, "row_count": row_count})
    else:
        print(f"restored {collection} with {row_count} rows")
