"""`vecserve index`: write a file of records into a collection.

Owns the flow from lines to acknowledgements. Must not know file formats (`records`) or retries
(the client).
"""

from __future__ import annotations

import sys
import time
from array import array
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Annotated, BinaryIO

import typer

from vecserve_client import Client, Collection, NotFound, Record, UpsertBatch
from vecserve_server.cli.exits import CommandFailed, Exit, UsageProblem
from vecserve_server.cli.options import (
    DEFAULT_PATIENCE_S,
    DEFAULT_TARGET,
    Json,
    Patience,
    Target,
    connect,
)
from vecserve_server.cli.output import complain, print_json
from vecserve_server.cli.progress import RowProgress
from vecserve_server.cli.records import (
    BadHeader,
    BadLine,
    Fields,
    GoodLine,
    ReadLine,
    read_csv,
    read_jsonl,
    read_lines,
)


class OnError(StrEnum):
    """What to do about a line that is no record, or a row that the server refuses."""

    STOP = "stop"
    SKIP = "skip"


class Format(StrEnum):
    """How the file is written."""

    JSONL = "jsonl"
    CSV = "csv"


def index(  # noqa: PLR0913, PLR0917 - a command's options are its parameters
    collection: Annotated[str, typer.Argument(metavar="COLLECTION")],
    file: Annotated[str, typer.Argument(metavar="FILE", help=".jsonl, .csv, or - for stdin.")],
    id_field: Annotated[str, typer.Option("--id-field", help="Field of the id.")] = "id",
    text_field: Annotated[
        list[str] | None,
        typer.Option("--text-field", help="Field to embed (repeatable). Default: text."),
    ] = None,
    payload_field: Annotated[
        list[str] | None,
        typer.Option("--payload-field", help="Field to keep (repeatable). Default: the rest."),
    ] = None,
    file_format: Annotated[
        Format | None, typer.Option("--format", help="Default: by the file's name, else jsonl.")
    ] = None,
    on_error: Annotated[OnError, typer.Option("--on-error")] = OnError.STOP,
    create: Annotated[bool, typer.Option("--create", help="Create the collection.")] = False,
    model: Annotated[str, typer.Option("--model", help="Model of a new collection.")] = "",
    server: Target = DEFAULT_TARGET,
    patience: Patience = DEFAULT_PATIENCE_S,
    json: Json = False,
) -> None:
    """Write a file of records into a collection; the same file twice changes nothing."""
    with _opened(file) as (stream, size_bytes), connect(server, deadline_s=patience) as client:
        fields = Fields(
            id=id_field,
            text=tuple(text_field or ("text",)),
            payload=tuple(payload_field) if payload_field is not None else None,
            kept=_declared(_ensure_collection(client, collection, create=create, model=model)),
        )
        lines = _read(stream, fields, file_format or _format_of(file))
        indexing = _Indexing(lines, on_error)
        with RowProgress(total_bytes=size_bytes, silent=json) as progress:
            for batch in client.upsert_many(collection, indexing.records()):
                indexing.acknowledge(batch)
                progress.update(rows=indexing.indexed, done_bytes=_position(stream, size_bytes))
    indexing.report(collection, as_json=json)


class _Indexing:
    """The tally of one run: what was read, written and refused."""

    def __init__(self, lines: Iterator[ReadLine], on_error: OnError) -> None:
        self._lines = lines
        self._on_error = on_error
        self._numbers = array("Q")
        self._started = time.monotonic()
        self.indexed = 0
        self._bad = 0
        self._stopped_by: str | None = None

    def records(self) -> Iterator[Record]:
        """Read the records of good lines: of all, or until the run is to stop.

        They end rather than fail, so that those before a bad line are still written.
        """
        try:
            for line in self._lines:
                if isinstance(line, BadLine):
                    self._refuse(line.number, line.reason)
                if self._stopped_by is not None:
                    return
                if isinstance(line, GoodLine):
                    self._numbers.append(line.number)
                    yield line.record
        except BadHeader as problem:
            raise UsageProblem(str(problem)) from None

    def acknowledge(self, batch: UpsertBatch) -> None:
        """Count a batch that is on disk."""
        self.indexed += len(batch.ids) - len(batch.result.errors)
        for position, error in batch.result.errors.items():
            self._refuse(self._numbers[batch.start + position], str(error))

    def report(self, collection: str, *, as_json: bool) -> None:
        """Print the summary; exit 4 if lines were left out. Fails with the line that stopped it."""
        if self._stopped_by is not None:
            raise CommandFailed(f"{self._stopped_by} ({self.indexed} rows are written)")
        seconds = time.monotonic() - self._started
        rate = self.indexed / max(seconds, 1e-9)
        if as_json:
            print_json(
                {
                    "collection": collection,
                    "indexed": self.indexed,
                    "bad_lines": self._bad,
                    "seconds": round(seconds, 3),
                    "rows_per_second": round(rate, 1),
                }
            )
        else:
            print(
                f"{collection}: {self.indexed} rows in {seconds:.1f} s ({rate:.0f} rows/s), "
                f"{self._bad} bad lines"
            )
        if self._bad:
            raise typer.Exit(Exit.PARTIAL)

    def _refuse(self, number: int, reason: str) -> None:
        self._bad += 1
        if self._on_error is OnError.SKIP:
            complain(f"line {number}: {reason}")
        elif self._stopped_by is None:
            self._stopped_by = f"line {number}: {reason}"


@contextmanager
def _opened(file: str) -> Iterator[tuple[BinaryIO, int | None]]:
    if file == "-":
        yield sys.stdin.buffer, None
        return
    path = Path(file)
    if not path.is_file():
        raise UsageProblem(f"{file}: there is no such file")
    with path.open("rb") as stream:
        yield stream, path.stat().st_size


def _format_of(file: str) -> Format:
    return Format.CSV if file.lower().endswith(".csv") else Format.JSONL


def _read(stream: BinaryIO, fields: Fields, file_format: Format) -> Iterator[ReadLine]:
    lines = read_lines(stream)
    return read_csv(lines, fields) if file_format is Format.CSV else read_jsonl(lines, fields)


def _position(stream: BinaryIO, size_bytes: int | None) -> int:
    return stream.tell() if size_bytes is not None else 0


def _ensure_collection(client: Client, name: str, *, create: bool, model: str) -> Collection:
    try:
        return client.get_collection(name)
    except NotFound:
        if not create:
            raise
        return client.create_collection(name, model=model)


def _declared(collection: Collection) -> frozenset[str]:
    """Return the top keys of what the collection has indexes for, which it finds in payloads."""
    return frozenset(name.partition(".")[0] for name in collection.fields.types)
