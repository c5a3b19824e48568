"""`vecserve aliases`: set, list and delete.

Owns how aliases look on the terminal. Must not know how they are stored.
"""

from __future__ import annotations

from typing import Annotated

import typer

from vecserve_server.cli.options import DEFAULT_TARGET, Json, Target, connect
from vecserve_server.cli.output import print_json, print_table

app = typer.Typer(help="Second names of collections.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(metavar="ALIAS", help="The second name.")]


@app.command("set")
def set_one(
    name: Name,
    collection: Annotated[
        str, typer.Argument(metavar="COLLECTION", help="Name of the collection.")
    ],
    server: Target = DEFAULT_TARGET,
    json: Json = False,
) -> None:
    """Make an alias, or move it to another collection in one step."""
    with connect(server) as client:
        previous = client.admin.set_alias(name, collection)
    if json:
        print_json({"name": name, "collection": collection, "previous_collection": previous})
    else:
        print(f"{name} -> {collection}" + (f" (was {previous})" if previous else ""))


@app.command("list")
def list_all(server: Target = DEFAULT_TARGET, json: Json = False) -> None:
    """List all aliases."""
    with connect(server) as client:
        found = client.admin.list_aliases()
    if json:
        aliases = [{"name": alias.name, "collection": alias.collection} for alias in found]
        print_json({"aliases": aliases})
    else:
        print_table(("alias", "collection"), [(alias.name, alias.collection) for alias in found])


@app.command("delete")
def delete(name: Name, server: Target = DEFAULT_TARGET, json: Json = False) -> None:
    """Remove an alias; the collection stays."""
    with connect(server) as client:
        client.admin.delete_alias(name)
    if json:
        print_json({"name": name})
    else:
        print(f"deleted {name}")
