"""The command line: which commands there are, and how failures end.

Owns the list of commands. Must not know what they do.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import typer

from vecserve_server import MAY_REPORT, __version__
from vecserve_server.cli.commands import (
    aliases,
    classify,
    collections,
    demo,
    embed,
    index,
    models,
    reindex,
    rows,
    search,
    serve,
    snapshot,
    upkeep,
)
from vecserve_server.cli.exits import Exit, exit_for
from vecserve_server.cli.output import complain
from vecserve_server.telemetry import warning

app = typer.Typer(
    name="vecserve",
    help="On-prem embedding and vector search behind one gRPC port.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command("serve")(serve.serve)
app.command("check-config")(serve.check_config)
app.command("index")(index.index)
app.command("search")(search.search)
app.command("classify")(classify.classify)
app.command("get")(rows.get)
app.command("scan")(rows.scan)
app.command("count")(rows.count)
app.command("delete")(rows.delete)
app.command("export")(rows.export)
app.command("verify")(upkeep.verify)
app.command("compact")(upkeep.compact)
app.command("embed")(embed.embed)
app.command("demo")(demo.demo)
app.add_typer(models.app, name="models")
app.add_typer(collections.app, name="collections")
app.add_typer(aliases.app, name="aliases")
app.add_typer(reindex.app, name="reindex")
app.add_typer(snapshot.app, name="snapshot")


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"vecserve {__version__}")
        raise typer.Exit


@app.callback()
def _program(
    context: typer.Context,
    version: Annotated[  # noqa: ARG001 - ends the program by itself
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version and stop."
        ),
    ] = False,
) -> None:
    """Take the options that stand before every command."""
    if MAY_REPORT and context.invoked_subcommand != "serve":  # which says so in its log
        complain(f"vecserve: {warning(MAY_REPORT)}")


def run(args: Sequence[str]) -> int:
    """Run one command line; returns the exit code. Failures are one line on standard error."""
    try:
        code = app(list(args), prog_name="vecserve", standalone_mode=False)
    except typer.Abort:
        return _end(*exit_for(KeyboardInterrupt()))
    except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001 - a user never sees a traceback
        if (explain := getattr(error, "format_message", None)) is not None:
            return _end(Exit.USAGE, explain())  # the parser's own errors
        return _end(*exit_for(error))
    if code == Exit.INTERRUPTED:  # the parser has swallowed the KeyboardInterrupt
        return _end(*exit_for(KeyboardInterrupt()))
    return int(code or Exit.OK)


def _end(code: Exit, message: str) -> int:
    if message:  # none where the parser printed the help instead
        complain("vecserve: " + " ".join(message.split()))
    return int(code)
