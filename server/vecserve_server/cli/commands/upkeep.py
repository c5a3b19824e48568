"""`vecserve verify` and `vecserve compact`.

Owns how their results look on the terminal. Must not know how they are done.
"""

from __future__ import annotations

import dataclasses
from typing import Annotated, Final

import typer

from vecserve_client import Verification
from vecserve_server.cli.exits import CommandFailed
from vecserve_server.cli.options import DEFAULT_TARGET, Json, Target, connect
from vecserve_server.cli.output import complain, print_json, size_text
from vecserve_server.cli.progress import waiting

PATIENCE_S: Final = 3600.0
"""Reading or writing all rows of a collection takes as long as it takes."""

Name = Annotated[str, typer.Argument(metavar="COLLECTION", help="Name of the collection.")]


Repair = Annotated[bool, typer.Option("--repair", help="Rebuild damaged parts from the rows.")]


def verify(
    name: Name, server: Target = DEFAULT_TARGET, repair: Repair = False, json: Json = False
) -> None:
    """Check a collection: every record, everything derived from records, and searches."""
    with connect(server, deadline_s=PATIENCE_S) as client, waiting("checking", silent=json):
        found = client.admin.verify_collection(name, repair=repair)
    if json:
        print_json(dataclasses.asdict(found))
    else:
        for problem in found.problems:
            complain(problem)
        for problem in found.repaired:
            print(f"repaired: {problem}")
        print(f"{name}: {found.row_count} rows, {len(found.problems)} problems")
    if found.problems:
        raise CommandFailed(f"{name} has {len(found.problems)} problems; {_cure(found)}")


def _cure(found: Verification) -> str:
    if found.has_damaged_rows:
        return "write or delete the damaged rows, or restore a snapshot; then use --repair"
    return "--repair makes anew what is damaged"


def compact(name: Name, server: Target = DEFAULT_TARGET, json: Json = False) -> None:
    """Rewrite a collection's files so that they contain nothing of deleted rows."""
    with connect(server, deadline_s=PATIENCE_S) as client, waiting("rewriting", silent=json):
        freed_bytes = client.admin.compact_collection(name)
    if json:
        print_json({"name": name, "freed_bytes": freed_bytes})
    else:
        print(f"{name}: freed {size_text(freed_bytes)}")
