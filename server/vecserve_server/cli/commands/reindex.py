"""`vecserve reindex`: start, show and cancel.

Owns how a re-index looks on the terminal. Must not know how it is done.
"""

from __future__ import annotations

import dataclasses
import time
from typing import Annotated, Final

import typer

from vecserve_client import Client, Reindex
from vecserve_server.cli.exits import CommandFailed
from vecserve_server.cli.options import DEFAULT_TARGET, Json, Target, connect
from vecserve_server.cli.output import print_json, print_table
from vecserve_server.cli.progress import RowProgress

POLL_S: Final = 0.2

app = typer.Typer(help="Embed a collection again while it serves.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(metavar="COLLECTION", help="Name of the collection.")]


@app.command("start")
def start(
    name: Name,
    model: Annotated[
        str, typer.Option("--model", help="Default: latest version of the collection's model.")
    ] = "",
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Wait until it is done.")] = True,
    server: Target = DEFAULT_TARGET,
    json: Json = False,
) -> None:
    """Embed a collection again; it keeps serving."""
    with connect(server) as client:
        reindex_id = client.admin.start_reindex(name, model=model)
        if wait:
            found = _wait(client, reindex_id, silent=json)
        else:
            found = client.admin.get_reindex(reindex_id)
    _print(found, as_json=json)
    if found.state == "failed":
        raise CommandFailed(f"{name} was not re-indexed: {found.message}")


@app.command("show")
def show(name: Name, server: Target = DEFAULT_TARGET, json: Json = False) -> None:
    """Show the progress or the result of the last re-index of a collection."""
    with connect(server) as client:
        found = client.admin.get_reindex(_last(client, name))
    _print(found, as_json=json)


@app.command("cancel")
def cancel(name: Name, server: Target = DEFAULT_TARGET, json: Json = False) -> None:
    """Stop a running re-index, or roll back a finished one."""
    with connect(server) as client:
        reindex_id = _last(client, name)
        client.admin.cancel_reindex(reindex_id)
        found = client.admin.get_reindex(reindex_id)
    _print(found, as_json=json)


def _wait(client: Client, reindex_id: str, *, silent: bool) -> Reindex:
    with RowProgress(total_bytes=None, silent=silent) as progress:
        while (found := client.admin.get_reindex(reindex_id)).state in ("running", "evaluating"):
            progress.update(
                rows=found.done_rows, done_bytes=found.done_rows, total_bytes=found.total_rows
            )
            time.sleep(POLL_S)
    return found


def _last(client: Client, name: str) -> str:
    reindex_id = client.get_collection(name).reindex_id
    if not reindex_id:
        raise CommandFailed(f"{name} was never re-indexed")
    return reindex_id


def _print(found: Reindex, *, as_json: bool) -> None:
    if as_json:
        print_json(dataclasses.asdict(found))
        return
    rows = [
        ("collection", found.collection),
        ("model", f"{found.model.name} {found.model.version}"),
        ("state", found.state),
        ("rows", f"{found.done_rows} of {found.total_rows}"),
    ]
    if found.state == "done":
        rows.append(("rows found by their own vector", f"{found.self_hit_rate:.3f}"))
        rows.append(("common rows in the nearest ten", f"{found.overlap_at_10:.3f}"))
    if found.message:
        rows.append(("message", found.message))
    print_table(("property", "value"), rows)
