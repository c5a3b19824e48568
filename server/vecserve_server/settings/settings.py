"""Every knob of the server, read once: defaults < TOML file < VECSERVE_* variables < flags.

Owns names, defaults, limits and the cross-checks that refuse to start. Must not know what the
values are used for. The key `server.port` is `[server] port` in TOML, `VECSERVE_SERVER_PORT` in
the environment and `--port` on the command line.
"""

from __future__ import annotations

import dataclasses
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, get_type_hints

from vecserve_server.errors import ConfigError
from vecserve_server.settings import model_settings
from vecserve_server.settings.model_settings import ModelSettings
from vecserve_server.settings.server_settings import ServerSettings
from vecserve_server.settings.setting_values import converted
from vecserve_server.settings.storage_settings import IndexSettings, StorageSettings

MIB = 1 << 20
ENV_PREFIX = "VECSERVE_"
# Variables with the prefix that other programs of the distribution read.
FOREIGN_VARIABLES = frozenset({"VECSERVE_CONFIG", "VECSERVE_SERVER_TARGET"})
SHORT_VARIABLES: Mapping[str, str] = MappingProxyType(
    {"VECSERVE_DELAY_SCHEDULER": "models.delay_scheduler"}
)
FOREIGN_PREFIXES = ("VECSERVE_TEST_", "VECSERVE_BENCH_")


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitSettings:
    """What one call may ask for, and what may wait."""

    max_items_per_call: int = 1024
    max_text_bytes: int = 1 * MIB
    max_payload_bytes: int = 64 * 1024
    max_id_bytes: int = 512
    max_k: int = 1000
    max_pending_items: int = 16384
    """Items of accepted calls that are not answered yet, all calls together."""
    max_pending_bytes: int = 256 * MIB
    """Size of the messages of accepted calls that are not answered yet."""
    max_queued_tokens: int = 1 << 21
    """Tokens that wait for a text encoder."""
    max_hits_per_call: int = 32768
    """Queries of a call times the hits that each asks for."""
    max_queued_rows: int = 65536
    """Rows that wait for the store writer."""
    max_collections: int = 1000
    max_read_s: float = 10.0
    """How long one query may read rows: filters and words, not the comparison of vectors."""
    max_filter_conditions: int = 256
    max_filter_values: int = 4096
    """Scalars of all `one_of` of one filter."""
    max_filter_depth: int = 8
    """Levels of conditions inside conditions."""
    max_upkeep_jobs: int = 16
    """Snapshots, restores, checks and compactions that are under way or wait."""
    max_stream_window: int = 16
    """Unanswered messages on one stream before the server stops reading it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ComputeSettings:
    """Threads beside the model instances, whose number is in each config.pbtxt."""

    tokenise_threads: int = 2
    search_threads: int = 2
    """Threads that read one collection at a time."""
    all_search_threads: int = 0
    """Threads that read all collections together. 0: four times as many as for one."""
    upkeep_threads: int = 2
    """Threads that snapshot, restore, check and compact."""
    model_niceness: int = 10
    """How much the threads that run models yield to those that answer calls."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassifySettings:
    """How neighbours vote for a label; measured with the default model."""

    temperature: float = 0.05
    """Cosine that makes a vote e times as heavy."""
    scope_cosine: float = 0.8
    """Cosine of the imagined neighbour that has none of the labels."""
    min_confidence: float = 0.5
    """Below it a query is out of scope, where a request does not say."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReindexSettings:
    """When collections are embedded anew, and how long there is a way back."""

    on_new_version: Literal["start", "ignore"] = "start"
    """What a newer version of a collection's model leads to."""
    keep_days: float = 7.0
    """How long the generation before is kept to go back to, and its model version served."""
    min_overlap: float = 0.0
    """Least share of common rows among the ten nearest, old against new; 0: any."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LogSettings:
    """What the server says on standard error."""

    level: str = "info"
    format: str = "text"
    """text or json."""
    trace_tensors: str = "shapes"
    """What the trace level TENSORS writes: `shapes`, or `values`, which may be personal data."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """All settings; immutable."""

    server: ServerSettings = field(default_factory=ServerSettings)
    limits: LimitSettings = field(default_factory=LimitSettings)
    storage: StorageSettings = field(default_factory=StorageSettings)
    index: IndexSettings = field(default_factory=IndexSettings)
    models: ModelSettings = field(default_factory=ModelSettings)
    compute: ComputeSettings = field(default_factory=ComputeSettings)
    classify: ClassifySettings = field(default_factory=ClassifySettings)
    reindex: ReindexSettings = field(default_factory=ReindexSettings)
    log: LogSettings = field(default_factory=LogSettings)


def load_settings(
    *,
    config_path: Path | None,
    environ: Mapping[str, str],
    flags: Mapping[str, object],
) -> Settings:
    """Merge the sources into checked settings.

    `flags` is keyed by dotted names; values of None are left out. Raises ConfigError that names
    the source, the key and the limit.
    """
    values: dict[str, object] = {}
    for source, key, raw in _all_sources(config_path, environ, flags):
        values[key] = _convert(source, key, raw)
    sections = {
        name: kind(
            **{k.partition(".")[2]: v for k, v in values.items() if k.startswith(f"{name}.")}
        )
        for name, kind in _section_types().items()
    }
    settings = Settings(**sections)
    _check(settings)
    return settings


def known_keys() -> dict[str, type]:
    """Every dotted key with its type, in the order of declaration."""
    return {
        f"{name}.{entry.name}": get_type_hints(kind)[entry.name]
        for name, kind in _section_types().items()
        for entry in dataclasses.fields(kind)
    }


def as_dict(settings: Settings) -> dict[str, dict[str, object]]:
    """Flatten to plain values, for printing."""
    return {
        section: {k: str(v) if isinstance(v, Path) else v for k, v in body.items()}
        for section, body in dataclasses.asdict(settings).items()
    }


def _section_types() -> dict[str, Any]:
    hints = get_type_hints(Settings)
    return {entry.name: hints[entry.name] for entry in dataclasses.fields(Settings)}


def _all_sources(
    config_path: Path | None, environ: Mapping[str, str], flags: Mapping[str, object]
) -> Iterator[tuple[str, str, object]]:
    if config_path is not None:
        yield from _from_toml(config_path)
    yield from _from_environ(environ)
    yield from ((f"flag {key}", key, raw) for key, raw in flags.items() if raw is not None)


def _from_toml(path: Path) -> Iterator[tuple[str, str, object]]:
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not valid TOML: {error}") from error
    for section, body in tables.items():
        if not isinstance(body, dict):
            raise ConfigError(f"{path}: {section}: settings stand in tables such as [server]")
        yield from ((str(path), f"{section}.{name}", raw) for name, raw in body.items())


def _from_environ(environ: Mapping[str, str]) -> Iterator[tuple[str, str, object]]:
    by_variable = {ENV_PREFIX + key.replace(".", "_").upper(): key for key in known_keys()}
    by_variable |= SHORT_VARIABLES
    for variable in sorted(environ):
        if not variable.startswith(ENV_PREFIX) or variable in FOREIGN_VARIABLES:
            continue
        if variable.startswith(FOREIGN_PREFIXES):
            continue
        if variable not in by_variable:
            raise ConfigError(f"environment: {variable} is not a setting of vecserve")
        yield f"environment {variable}", by_variable[variable], environ[variable]


def _convert(source: str, key: str, raw: object) -> object:
    kinds = known_keys()
    if key not in kinds:
        raise ConfigError(f"{source}: {key} is not a setting of vecserve")
    try:
        return converted(kinds[key], raw)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{source}: {key} = {raw!r}: {error}") from error


def _check(settings: Settings) -> None:
    for key, low, high in _RANGES:
        value = _value(settings, key)
        if not low <= value <= high:
            raise ConfigError(f"{key} = {value}: must lie between {low} and {high}")
    for key, allowed in _CHOICES:
        value = _value(settings, key)
        if value not in allowed:
            raise ConfigError(f"{key} = {value!r}: must be one of {', '.join(allowed)}")
    _cross_check(settings)


_RANGES: tuple[tuple[str, float, float], ...] = (
    ("server.port", 0, 65535),
    ("server.metrics_port", -1, 65535),
    ("server.drain_s", 0, 3600),
    ("server.max_message_bytes", 64 * 1024, 2**31 - 1),
    ("server.max_arriving_bytes", 64 * 1024, 1 << 40),
    ("server.receive_timeout_s", 0.1, 3600),
    ("server.max_unread_bytes", MIB, 1 << 40),
    ("server.max_concurrent_calls", 1, 1 << 20),
    ("server.max_connection_calls", 1, 1 << 20),
    ("server.max_streams", 1, 1 << 20),
    ("server.max_connection_streams", 1, 1 << 20),
    ("server.max_watches", 1, 1 << 20),
    ("server.max_connection_watches", 1, 1 << 20),
    ("server.max_connections", 1, 1 << 20),
    ("server.handshake_timeout_s", 0.1, 3600),
    ("server.max_connection_idle_s", 1, 1 << 20),
    ("server.max_connection_age_s", 1, 1 << 20),
    ("server.max_metrics_connections", 1, 4096),
    ("server.metrics_timeout_s", 0.1, 3600),
    ("server.max_shared_memory_regions", 1, 1 << 16),
    ("server.max_shared_memory_bytes", 1, 1 << 46),
    ("limits.max_items_per_call", 1, 65536),
    ("limits.max_text_bytes", 1, 2**31 - 1),
    ("limits.max_payload_bytes", 2, 16 * MIB),
    ("limits.max_id_bytes", 1, 4096),
    ("limits.max_k", 1, 10000),
    ("limits.max_pending_items", 1, 1 << 20),
    ("limits.max_pending_bytes", 64 * 1024, 1 << 40),
    ("limits.max_queued_tokens", 1, 1 << 40),
    ("limits.max_hits_per_call", 1, 1 << 24),
    ("limits.max_queued_rows", 1, 1 << 22),
    ("limits.max_collections", 1, 100_000),
    ("limits.max_read_s", 0.001, 3600),
    ("limits.max_filter_conditions", 1, 256),
    ("limits.max_filter_values", 1, 4096),
    ("limits.max_filter_depth", 1, 8),
    ("limits.max_upkeep_jobs", 1, 1024),
    ("limits.max_stream_window", 1, 1024),
    ("storage.max_open_collections", 0, 100_000),
    ("storage.watch_s", 0.05, 3600),
    ("index.first_rows", 0, 1 << 30),
    ("index.delta_rows", 0, 1 << 30),
    ("index.exact_rows", 0, 1 << 30),
    ("index.target_recall", 0.5, 0.9999),
    ("index.build_memory_bytes", 0, 1 << 46),
    ("index.builder_niceness", 0, 19),
    *model_settings.RANGES,
    ("compute.tokenise_threads", 1, 64),
    ("compute.search_threads", 1, 64),
    ("compute.all_search_threads", 0, 256),
    ("compute.upkeep_threads", 1, 64),
    ("compute.model_niceness", 0, 19),
    ("classify.temperature", 0.001, 1),
    ("classify.scope_cosine", -1, 1),
    ("classify.min_confidence", 0, 1),
    ("reindex.keep_days", 0, 3650),
    ("reindex.min_overlap", 0, 1),
)
_CHOICES: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("server.client_shared_memory", ("auto", "on", "off")),
    ("log.level", ("debug", "info", "warning", "error")),
    ("log.format", ("text", "json")),
    ("log.trace_tensors", ("shapes", "values")),
    *model_settings.CHOICES,
    ("reindex.on_new_version", ("start", "ignore")),
)


# What never could be accepted must not be allowed.
_NOT_ABOVE = (
    ("limits.max_items_per_call", "limits.max_pending_items"),
    ("limits.max_items_per_call", "limits.max_queued_rows"),
    ("limits.max_text_bytes", "server.max_message_bytes"),
    ("server.max_message_bytes", "server.max_arriving_bytes"),
    ("server.max_message_bytes", "limits.max_pending_bytes"),
    ("limits.max_k", "limits.max_hits_per_call"),
)


def _value(settings: Settings, key: str) -> Any:
    section, _, name = key.partition(".")
    return getattr(getattr(settings, section), name)


def _cross_check(settings: Settings) -> None:
    server, models = settings.server, settings.models
    if server.port == server.metrics_port and server.port > 0:
        raise ConfigError(f"server.metrics_port = {server.port}: is server.port already")
    for smaller, larger in _NOT_ABOVE:
        low, high = _value(settings, smaller), _value(settings, larger)
        if low > high:
            raise ConfigError(f"{smaller} = {low}: exceeds {larger} = {high}")
    compute = settings.compute
    if 0 < compute.all_search_threads <= compute.search_threads:
        raise ConfigError(
            f"compute.all_search_threads = {compute.all_search_threads}: must exceed "
            f"compute.search_threads = {compute.search_threads}, or one collection could hold "
            "every thread"
        )
    if models.load and models.default not in ("", *models.load):
        raise ConfigError(f"models.default = {models.default!r}: is not in models.load")
