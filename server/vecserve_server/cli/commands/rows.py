"""`vecserve get`, `scan`, `count`, `delete` and `export`: the rows of a collection.

Owns how rows look on the terminal and in a file. Must not know how they are stored.
"""

from __future__ import annotations

import json as json_format
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, TextIO

import typer

from vecserve_client import Row
from vecserve_server.cli.exits import Exit, UsageProblem
from vecserve_server.cli.options import DEFAULT_TARGET, Json, NoText, Target, Where, connect
from vecserve_server.cli.output import (
    complain,
    print_json,
    print_rows,
    printable_lines,
    row_as_dict,
)
from vecserve_server.cli.progress import RowProgress
from vecserve_server.cli.where import read_where

EXPORT_PAGE_ROWS = 500

Name = Annotated[str, typer.Argument(metavar="COLLECTION", help="Name or alias.")]
Vectors = Annotated[bool, typer.Option("--vectors", help="Show vectors too.")]


def get(
    collection: Name,
    ids: Annotated[list[str], typer.Argument(metavar="ID...", help="Ids of rows.")],
    vectors: Vectors = False,
    no_text: NoText = False,
    server: Target = DEFAULT_TARGET,
    json: Json = False,
) -> None:
    """Show rows by id; exit code 4 if some do not exist."""
    with connect(server) as client:
        found = client.get(collection, ids, include_vector=vectors, with_text=not no_text)
    if json:
        rows = [row_as_dict(row) for row in found.rows]
        print_json({"rows": rows, "missing_ids": list(found.missing_ids)})
    else:
        print("\n\n".join(map(_described, found.rows)), end="\n" if found.rows else "")
        for row_id in found.missing_ids:
            complain(f"{collection} has no row {row_id!r}")
    if found.missing_ids:
        raise typer.Exit(Exit.PARTIAL)


def scan(
    collection: Name,
    where: Where = None,
    limit: Annotated[int, typer.Option("--limit", min=1, help="Rows to show.")] = 20,
    vectors: Annotated[
        bool, typer.Option("--vectors", help="Show vectors too, with --json.")
    ] = False,
    no_text: NoText = False,
    server: Target = DEFAULT_TARGET,
    json: Json = False,
) -> None:
    """Show rows in the order they were written."""
    with connect(server) as client:
        every = client.scan(
            collection,
            where=read_where(client, collection, where),
            include_vector=vectors and json,
            with_text=not no_text,
            page_size=min(limit + 1, 1000),
        )
        rows = list(islice(every, limit + 1))
    shown = rows[:limit]
    if json:
        print_json({"rows": [row_as_dict(row) for row in shown], "has_more": len(rows) > limit})
        return
    print_rows(shown)
    more = "; there are more rows: raise --limit" if len(rows) > limit else ""
    print(f"{len(shown)} rows{more}")


def count(
    collection: Name, where: Where = None, server: Target = DEFAULT_TARGET, json: Json = False
) -> None:
    """Count rows."""
    with connect(server) as client:
        row_count = client.count(collection, where=read_where(client, collection, where))
    if json:
        print_json({"collection": collection, "row_count": row_count})
    else:
        print(row_count)


def delete(
    collection: Name,
    ids: Annotated[
        list[str] | None, typer.Argument(metavar="[ID...]", help="Ids of rows; or --where.")
    ] = None,
    where: Where = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    server: Target = DEFAULT_TARGET,
    json: Json = False,
) -> None:
    """Delete rows by id, or all rows that match; ask first with --where."""
    if bool(ids) == bool(where):
        raise UsageProblem("delete: name ids or conditions (--where), not both")
    with connect(server) as client:
        condition = read_where(client, collection, where)
        if condition is not None and not yes:
            matching = client.count(collection, where=condition)
            if not sys.stdin.isatty():
                raise UsageProblem(
                    f"{matching} rows of {collection} would be deleted; --yes confirms this"
                )
            if not typer.confirm(f"Delete {matching} rows of {collection}?", err=True):
                raise typer.Exit(Exit.FAILURE)
        deleted = client.delete(collection, ids or (), where=condition)
    if json:
        print_json({"collection": collection, "deleted": deleted})
        return
    named = f" of {len(set(ids))}" if ids else ""
    print(f"deleted {deleted}{named} rows of {collection}")


def export(
    collection: Name,
    file: Annotated[str, typer.Argument(metavar="FILE", help="- is standard output.")] = "-",
    where: Where = None,
    vectors: Annotated[
        bool,
        typer.Option("--vectors", help="Write vectors too; rows without a text always have one."),
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing file.")] = False,
    server: Target = DEFAULT_TARGET,
    json: Json = False,
) -> None:
    """Write rows as JSON lines, which `index` can read."""
    if json and file == "-":
        raise UsageProblem("--json: goes only with a FILE; the rows are on standard output")
    with connect(server) as client:
        condition = read_where(client, collection, where)
        total = client.count(collection, where=condition)
        rows = client.scan(
            collection,
            where=condition,
            include_vector=True,
            with_text=True,
            page_size=EXPORT_PAGE_ROWS,
        )
        with _output(file, replace=force) as out:
            written = _write(rows, out, total, vectors=vectors, silent=json)
    if json:
        print_json({"collection": collection, "file": file, "rows": written})
    else:
        complain(f"{collection}: {written} rows exported")


def _write(rows: Iterator[Row], out: TextIO, total: int, *, vectors: bool, silent: bool) -> int:
    written = 0
    with RowProgress(total_bytes=total, silent=silent) as progress:
        for row in rows:
            out.write(json_format.dumps(_exported(row, vectors=vectors), ensure_ascii=False) + "\n")
            written += 1
            if not written % EXPORT_PAGE_ROWS:
                progress.update(rows=written, done_bytes=written, total_bytes=total)
    return written


def _exported(row: Row, *, vectors: bool) -> dict[str, Any]:
    parts = row_as_dict(row)
    if row.text is None:
        del parts["text"]
    elif not vectors:
        del parts["vector"]
    return parts


@contextmanager
def _output(file: str, *, replace: bool) -> Iterator[TextIO]:
    """Open the file under another name until it is whole."""
    if file == "-":
        yield sys.stdout
        return
    path = Path(file)
    if path.exists() and not replace:
        raise UsageProblem(f"{file}: is there already; --force replaces it")
    unfinished = path.with_name(f"{path.name}.part")
    try:
        with unfinished.open("w", encoding="utf-8") as out:
            yield out
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def _described(row: Row) -> str:
    parts = row_as_dict(row)
    text = parts.pop("text")
    lines = {"id": row.id, "seq": row.seq} | ({"text": text} if text is not None else {})
    lines |= {"payload": json_format.dumps(parts["payload"], ensure_ascii=False)}
    if "vector" in parts:
        lines["vector"] = " ".join(map(str, parts["vector"]))
    return printable_lines("\n".join(f"{name:<8} {value}" for name, value in lines.items()))
