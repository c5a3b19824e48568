"""`vecserve index`: write a file of records into a collection.

Owns the flow from lines to acknowledgements. Must not know file formats (`records`) or retries
(the client).
"""

from __future__ import annotations

import re
import sys
import time
from array import array
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Annotated, BinaryIO

import typer

from vecserve_client import Client, EmbedOptions, UpsertBatch
from vecserve_client import Fields as Declared
from vecserve_client import VecserveError as CallFailed
from vecserve_client.arguments import AnyRecord
from vecserve_server.cli.commands.collections import StemmingName, TokeniserName, read_field_types
from vecserve_server.cli.exits import CommandFailed, Exit, Interrupted, UsageProblem
from vecserve_server.cli.options import (
    DEFAULT_PATIENCE_S,
    DEFAULT_TARGET,
    Json,
    Patience,
    Prompt,
    connect,
)
from vecserve_server.cli.options import Target as Server
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
from vecserve_server.cli.speech import spoken
from vecserve_server.cli.target import Target


class OnError(StrEnum):
    """What to do about a line that is no record, or a row that the server refuses."""

    STOP = "stop"
    SKIP = "skip"


class Format(StrEnum):
    """How the file is written."""

    JSONL = "jsonl"
    CSV = "csv"


SUFFIXES = {".jsonl": Format.JSONL, ".ndjson": Format.JSONL, ".json": Format.JSONL} | {
    ".csv": Format.CSV
}


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
        Format | None,
        typer.Option("--format", help="Format of the file. Default: by its name; -: jsonl."),
    ] = None,
    on_error: Annotated[OnError, typer.Option("--on-error", help="At a bad line.")] = OnError.STOP,
    create: Annotated[bool, typer.Option("--create", help="Create it if it is missing.")] = False,
    model: Annotated[str, typer.Option("--model", help="Model of a new collection.")] = "",
    dim: Annotated[
        int, typer.Option("--dim", min=0, help="Dim of a new collection; 0: the model's.")
    ] = 0,
    field: Annotated[
        list[str] | None,
        typer.Option(
            "--field",
            help="NAME:TYPE of a payload field (repeatable): declares it in a new collection, sets "
            "the type of a CSV column.",
        ),
    ] = None,
    tokeniser: Annotated[
        TokeniserName, typer.Option("--tokeniser", help="For text fields of a new collection.")
    ] = TokeniserName.WORDS,
    stemming: Annotated[
        StemmingName, typer.Option("--stemming", help="For text fields of a new collection.")
    ] = StemmingName.NONE,
    prompt: Prompt = None,
    server: Server = DEFAULT_TARGET,
    patience: Patience = DEFAULT_PATIENCE_S,
    json: Json = False,
) -> None:
    """Write a file of records into a collection. Writing it again changes nothing."""
    kind = file_format or _format_of(file)
    declared = Declared(
        types=read_field_types(field or ()), tokeniser=tokeniser.value, stemming=stemming.value
    )
    with _opened(file) as (stream, size_bytes), connect(server, deadline_s=patience) as client:
        target = Target(client, collection, create=create, model=model, dim=dim, declared=declared)
        fields = Fields(
            id=id_field,
            text=tuple(text_field or ("text",)),
            payload=tuple(payload_field) if payload_field is not None else None,
            kept=target.kept,
            types=target.types,
            needed=tuple(declared.types),
            takes_rows=id_field == "id" and text_field is None and payload_field is None,
        )
        run = _Indexing(file, _read(stream, fields, kind), on_error, target.ensure, prompt)
        with RowProgress(total_bytes=size_bytes, silent=json) as progress:
            run.write(
                client,
                collection,
                lambda: progress.update(rows=run.indexed, done_bytes=_position(stream, size_bytes)),
            )
    run.report(collection, as_json=json)


class _Indexing:
    """The tally of one run: what was read, written and refused."""

    def __init__(
        self,
        file: str,
        lines: Iterator[ReadLine],
        on_error: OnError,
        ensure_collection: Callable[[int], None],
        prompt: str | None,
    ) -> None:
        self._file = "standard input" if file == "-" else file
        self._lines = lines
        self._on_error = on_error
        self._ensure_collection = ensure_collection
        self._options = EmbedOptions(prompt_name=prompt)
        self._numbers = array("Q")
        self._started = time.monotonic()
        self.indexed = 0
        self._unchanged = 0
        self._bad = 0
        self._stopped_by: str | None = None

    def write(self, client: Client, collection: str, tell: Callable[[], None]) -> None:
        """Write all records; a failure says how many rows are in and how to go on."""
        try:
            for batch in client.upsert_many(
                collection, self._records(), options=self._options, skip_unchanged=True
            ):
                self._acknowledge(batch)
                tell()
        except KeyboardInterrupt:
            raise Interrupted(f"interrupted: {self._state(collection)}") from None
        except CallFailed as failure:
            if not self.indexed:
                raise
            raise type(failure)(f"{failure} ({self._state(collection)})") from None

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
                    "unchanged": self._unchanged,
                    "bad_lines": self._bad,
                    "seconds": round(seconds, 3),
                    "rows_per_second": round(rate, 1),
                }
            )
        else:
            unchanged = f"{self._unchanged} of them unchanged, " if self._unchanged else ""
            print(
                f"{collection}: {self.indexed} rows in {seconds:.1f} s ({rate:.0f} rows/s), "
                f"{unchanged}{self._bad} bad lines"
            )
        if self._bad:
            raise typer.Exit(Exit.PARTIAL)

    def _records(self) -> Iterator[AnyRecord]:
        """Read the records of good lines: of all, or until the run is to stop.

        They end rather than fail, so that those before a bad line are still written. The
        collection is made with the first of them, or at the end of a file that has none.
        """
        try:
            for line in self._lines:
                if isinstance(line, BadLine):
                    self._refuse(line.number, line.reason)
                if self._stopped_by is not None:
                    return
                if isinstance(line, GoodLine):
                    vector = line.record.vector
                    self._ensure_collection(0 if vector is None else len(vector))
                    self._numbers.append(line.number)
                    yield line.record
        except BadHeader as problem:
            raise UsageProblem(f"{self._file}: {problem}") from None
        if not self._bad:
            self._ensure_collection(0)

    def _acknowledge(self, batch: UpsertBatch) -> None:
        """Count a batch that is on disk."""
        self.indexed += len(batch.ids) - len(batch.result.errors)
        self._unchanged += len(batch.result.unchanged)
        for position, error in batch.result.errors.items():
            self._refuse(self._numbers[batch.start + position], spoken(_without_place(str(error))))

    def _refuse(self, number: int, reason: str) -> None:
        self._bad += 1
        told = f"{self._file}: line {number}: {reason}"
        if self._on_error is OnError.SKIP:
            complain(told)
        elif self._stopped_by is None:
            self._stopped_by = told

    def _state(self, collection: str) -> str:
        return (
            f"{self.indexed} rows of {self._file} are in {collection}; run the same command again "
            "to go on, it skips rows that are already stored"
        )


def _without_place(message: str) -> str:
    # Whoever reads of a line of a file does not know the requests that it went in.
    return re.sub(r"^UpsertStream: (rows\[\d+\](\.|: )?)?", "", message)


@contextmanager
def _opened(file: str) -> Iterator[tuple[BinaryIO, int | None]]:
    if file == "-":
        yield sys.stdin.buffer, None
        return
    path = Path(file)
    if not path.is_file():
        what = "is a folder; name a file in it" if path.is_dir() else "there is no such file"
        raise UsageProblem(f"{file}: {what}")
    with path.open("rb") as stream:
        yield stream, path.stat().st_size


def _format_of(file: str) -> Format:
    if file == "-":
        return Format.JSONL
    found = SUFFIXES.get(Path(file).suffix.lower())
    if found is None and Path(file).is_file():
        raise UsageProblem(
            f"{file}: its name tells no format; there are .jsonl (one JSON object a line; .ndjson "
            "and .json, too) and .csv (comma-separated values under a header): rename it, or pass "
            "--format jsonl or --format csv"
        )
    return found or Format.JSONL


def _read(stream: BinaryIO, fields: Fields, file_format: Format) -> Iterator[ReadLine]:
    lines = read_lines(stream)
    return read_csv(lines, fields) if file_format is Format.CSV else read_jsonl(lines, fields)


def _position(stream: BinaryIO, size_bytes: int | None) -> int:
    return stream.tell() if size_bytes is not None else 0
