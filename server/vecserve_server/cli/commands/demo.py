"""`vecserve demo`: a server, a corpus, questions and their latency, in one command.

Owns the story that the demo tells. Must not know how the server works: it asks through gRPC.
"""

from __future__ import annotations

import dataclasses
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final

import typer

from vecserve_client import Client, Hit, NotFound
from vecserve_server.cli.exits import CommandFailed, UsageProblem
from vecserve_server.cli.options import Json
from vecserve_server.cli.output import hit_as_dict, print_json, print_table
from vecserve_server.cli.progress import RowProgress
from vecserve_server.measuring.datasets.stdlib_corpus import read_corpus, stdlib_folder, to_record
from vecserve_server.measuring.load.searches import Latency, measure_searches
from vecserve_server.measuring.server_process import ServerProcess

COLLECTION: Final = "python-stdlib"
READY_S: Final = 120.0
HITS: Final = 3
BATCH_ROWS: Final = 128

QUESTIONS: Final = (
    "read a file from a zip archive",
    "compress data with gzip",
    "parse command line arguments",
    "wait for several coroutines",
    "compute a sha256 digest",
    "the most common elements of a list",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Indexed:
    """How the indexing went."""

    documents: int
    read_seconds: float
    seconds: float

    @property
    def documents_per_second(self) -> float:
        """Documents embedded, written and searchable per second."""
        return self.documents / max(self.seconds, 1e-9)


def demo(
    data_dir: Annotated[
        Path | None, typer.Option("--data-dir", help="Keep the data here. Default: deleted.")
    ] = None,
    model_repository: Annotated[
        str, typer.Option("--model-repository", metavar="DIR", help="Folder of the models.")
    ] = "model_repository",
    queries: Annotated[int, typer.Option("--queries", min=1, help="Searches to time.")] = 200,
    limit: Annotated[int, typer.Option("--limit", min=0, help="Most documents; 0: all.")] = 0,
    json: Json = False,
) -> None:
    """Serve, index the standard library's docstrings, search them, measure, stop."""
    if not Path(model_repository).is_dir():
        raise UsageProblem(
            f"{model_repository}: no model repository here; `vecserve models add default` makes it"
        )
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that the server ends with us
    with tempfile.TemporaryDirectory(prefix="vecserve-demo-") as folder:
        run_dir = Path(folder)
        server = ServerProcess(
            run_dir=run_dir,
            data_dir=data_dir or run_dir / "data",
            model_repository=model_repository,
        )
        with server:
            _tell(json, "Starting a server ...")
            target = server.wait_ready(timeout_s=READY_S)
            with Client(target=target) as client:
                report = _run(client, target, queries=queries, limit=limit, quiet=json)
            server.stop()
    if json:
        print_json(report)
    else:
        print("\nThe server drained and stopped with exit code 0.")


def _run(
    client: Client, target: str, *, queries: int, limit: int, quiet: bool
) -> dict[str, object]:
    client.wait_ready(timeout_s=READY_S)
    model = next(model for model in client.list_models() if model.is_default)
    _tell(quiet, f"Serving {model.ref.name} ({model.precision}, dim {model.dim}) on {target}\n")
    indexed = _index(client, limit=limit, quiet=quiet)
    if not quiet:
        _print_indexed(indexed)
    answers = {question: _ask(client, question) for question in QUESTIONS}
    if not quiet:
        _print_answers(answers)
    latencies = measure_searches(client, COLLECTION, QUESTIONS, calls=queries, k=10)
    if not quiet:
        _print_latencies(latencies, queries)
    return {
        "model": model.ref.name,
        "precision": model.precision,
        "documents": indexed.documents,
        "read_seconds": round(indexed.read_seconds, 3),
        "index_seconds": round(indexed.seconds, 3),
        "documents_per_second": round(indexed.documents_per_second, 1),
        "answers": {
            question: [hit_as_dict(hit) for hit in hits] for question, hits in answers.items()
        },
        "queries": queries,
        "latency": [dataclasses.asdict(latency) for latency in latencies],
    }


def _index(client: Client, *, limit: int, quiet: bool) -> Indexed:
    started = time.monotonic()
    records = [to_record(docstring) for docstring in read_corpus(stdlib_folder())]
    records = records[: limit or None]
    read_seconds = time.monotonic() - started
    if not records:
        raise CommandFailed(f"{stdlib_folder()}: holds no docstrings to index")
    _ensure_collection(client)
    started, done = time.monotonic(), 0
    with RowProgress(total_bytes=len(records), silent=quiet) as progress:
        for batch in client.upsert_many(COLLECTION, records, batch_rows=BATCH_ROWS):
            for error in batch.result.errors.values():
                raise CommandFailed(f"a document was refused: {error}")
            done += len(batch.ids)
            progress.update(rows=done, done_bytes=done)
    seconds = time.monotonic() - started
    if (stored := client.count(COLLECTION)) < done:
        raise CommandFailed(f"{done} documents were acknowledged, but {stored} are stored")
    return Indexed(documents=done, read_seconds=read_seconds, seconds=seconds)


def _ensure_collection(client: Client) -> None:
    try:
        client.get_collection(COLLECTION)
    except NotFound:
        client.create_collection(COLLECTION)


def _ask(client: Client, question: str) -> Sequence[Hit]:
    hits = client.search(COLLECTION, question, k=HITS).hits
    if not hits:
        raise CommandFailed(f"no hits for {question!r}")
    return hits


def _print_indexed(indexed: Indexed) -> None:
    print(
        f"Indexed {indexed.documents} docstrings of Python "
        f"{sys.version_info.major}.{sys.version_info.minor}'s standard library\n"
        f"in {indexed.seconds:.1f} s: {indexed.documents_per_second:.0f} documents/s, "
        "embedded, on disk and searchable\n"
    )


def _print_answers(answers: dict[str, Sequence[Hit]]) -> None:
    for question, hits in answers.items():
        print(f"? {question}")
        for hit in hits:
            summary = str((hit.payload or {}).get("first_line", ""))
            print(_fitted(f"  {hit.score:.3f}  {hit.id}", summary))
        print()


def _fitted(left: str, right: str, *, width: int = 79, column: int = 41) -> str:
    line = f"{left:<{column}}  {right}"
    return line if len(line) <= width else line[: width - 3].rstrip() + "..."


def _print_latencies(latencies: Sequence[Latency], queries: int) -> None:
    print(f"{queries} searches, one after the other, in milliseconds:\n")
    rows = [
        (each.stage, f"{each.p50_ms:.2f}", f"{each.p95_ms:.2f}", f"{each.p99_ms:.2f}")
        for each in latencies
    ]
    print_table(("stage", "p50", "p95", "p99"), rows, right=("p50", "p95", "p99"))


def _tell(quiet: bool, line: str) -> None:
    if not quiet:
        print(line, flush=True)
