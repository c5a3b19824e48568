"""`vecserve serve` and `vecserve check-config`.

Owns which flags stand for which settings. Must not know what the settings do.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, NoReturn

import typer

from vecserve_server.cli.exits import Exit
from vecserve_server.cli.options import Json, Repository, environment
from vecserve_server.cli.output import print_json, print_table
from vecserve_server.settings.settings import Settings, as_dict, load_settings

ConfigFile = Annotated[
    Path | None,
    typer.Option("--config", metavar="FILE", envvar="VECSERVE_CONFIG", help="TOML file."),
]
Host = Annotated[str | None, typer.Option("--host", help="Address to listen on.")]
Port = Annotated[int | None, typer.Option("--port", help="gRPC port; 0: any free port.")]
MetricsPort = Annotated[
    int | None, typer.Option("--metrics-port", help="Metrics port; 0: any free port, -1: off.")
]
ReadyFile = Annotated[
    Path | None, typer.Option("--ready-file", help="File to write when the server is ready.")
]
DataDir = Annotated[Path | None, typer.Option("--data-dir", help="Folder of the collections.")]
DefaultModel = Annotated[
    str | None, typer.Option("--default-model", help="Model for requests that name none.")
]
LogLevel = Annotated[str | None, typer.Option("--log-level", help="debug, info, warning or error.")]


def serve(
    config: ConfigFile = None,
    host: Host = None,
    port: Port = None,
    metrics_port: MetricsPort = None,
    ready_file: ReadyFile = None,
    data_dir: DataDir = None,
    model_repository: Repository = None,
    default_model: DefaultModel = None,
    log_level: LogLevel = None,
) -> None:
    """Serve until interrupted (SIGINT or SIGTERM)."""
    settings = load_settings(
        config_path=config,
        environ=environment(),
        flags={
            "server.host": host,
            "server.port": port,
            "server.metrics_port": metrics_port,
            "server.ready_file": ready_file,
            "storage.data_dir": data_dir,
            "models.repository": model_repository,
            "models.default": default_model,
            "log.level": log_level,
        },
    )
    _serve(settings)


def check_config(config: ConfigFile = None, json: Json = False) -> None:
    """Print the settings that `serve` would use; exit code 2 if one is wrong."""
    effective = as_dict(load_settings(config_path=config, environ=environment(), flags={}))
    if json:
        print_json(effective)
        raise typer.Exit(Exit.OK)
    rows = [
        (f"{section}.{name}", "" if value is None else value)
        for section, body in effective.items()
        for name, value in body.items()
    ]
    print_table(("setting", "value"), rows)


def _serve(settings: Settings) -> NoReturn:
    from vecserve_server.app import serve as run_server  # noqa: PLC0415 - needs the server's extras

    run_server(settings)
