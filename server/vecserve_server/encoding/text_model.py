"""Text models, from the files of a version to tokeniser and encoder.

Owns the order: configuration, card, tokeniser, encoder; and what must agree between them. Must not
know how versions are found or checked, nor schedulers.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from vecserve.inference import model_config_pb2
from vecserve_server.domain.names import MODEL_CONFIG_FILE
from vecserve_server.domain.vectors import ModelRef, TokenIds
from vecserve_server.encoding.batch_dependence import TRIAL_TEXTS, TRIAL_TOKENS
from vecserve_server.encoding.cost_model import CostModel
from vecserve_server.encoding.encoder import Encoder, OnRun
from vecserve_server.encoding.loading import EncoderLoader, LoadedEncoder, ignored
from vecserve_server.encoding.tokenizer import TextTokenizer
from vecserve_server.engines.registry import Engines
from vecserve_server.errors import ModelError
from vecserve_server.model_files.card import ModelCard
from vecserve_server.model_files.config_file import named, read_config_file, refused
from vecserve_server.model_files.encoder_config import (
    PACKED,
    RUN_ALONE,
    EncoderConfig,
    encoder_config,
)
from vecserve_server.model_files.layout import CACHE_FOLDER, TOKENIZER_FILE
from vecserve_server.model_files.repository import ModelRepository
from vecserve_server.model_files.version_files import ModelFile, VersionFiles


@dataclass(frozen=True, slots=True, kw_only=True)
class TextModel:
    """A loaded text model."""

    ref: ModelRef
    config: EncoderConfig
    proto: model_config_pb2.ModelConfig
    """The configuration as read, for clients that ask for it."""
    tokenizer: TextTokenizer
    encoder: Encoder
    engine: str
    """The name of the engine that runs it."""
    cost: CostModel
    """How long its runs take."""


class TextModelLoader:
    """Loads the text models of one repository."""

    def __init__(self, root: Path, *, engines: Engines, default_instances: int = 1) -> None:
        """Load from `root`; `default_instances` is for models that do not say how many they have.

        What is measured and compiled is kept under `root`.
        """
        self._repository = ModelRepository(root)
        self._engines = engines
        self._default_instances = default_instances
        self._loader = EncoderLoader(engines=engines, cache_folder=root / CACHE_FOLDER)

    def load(
        self,
        name: str,
        version: str | None = None,
        *,
        proto: model_config_pb2.ModelConfig | None = None,
        precision: str | None = None,
        engine: str | None = None,
        on_run: OnRun = ignored,
    ) -> TextModel:
        """Load a version, the latest when None, with the configured precision and engine when None.

        `proto` stands in for the configuration in the folder; `on_run` is told of every run.

        Raises `InvalidArgument` for a malformed name, `ModelError` for files that are missing,
        unsupported or differ from their card.
        """
        folder = self._repository.folder(name)
        if proto is None:
            proto = read_config_file(folder / MODEL_CONFIG_FILE)
        config = encoder_config(named(proto, name), self._engines.encoder_names)
        config = replace(
            config, precision=precision or config.precision, engine=engine or config.engine
        )
        files = self._repository.files(name, version)
        _check_fit(proto, config, files.card)
        files.verified(TOKENIZER_FILE)
        tokenizer = TextTokenizer((files.folder / TOKENIZER_FILE).read_bytes())
        loaded = self._loader.load(
            self._engine_files(files, config),
            config,
            threads=config.instance_count or self._default_instances,
            trial=_trial(tokenizer, config),
            on_run=on_run,
        )
        return TextModel(
            ref=ModelRef(name=name, version=files.folder.name, digest=loaded.digest),
            config=config,
            proto=_in_force(proto, config, loaded),
            tokenizer=tokenizer,
            encoder=loaded.encoder,
            engine=loaded.engine,
            cost=loaded.cost,
        )

    def _engine_files(self, files: VersionFiles, config: EncoderConfig) -> dict[str, ModelFile]:
        """Return what each engine would run that can be had, of those that the model may use."""
        found = [
            (engine, names)
            for engine in self._engines.able(config)
            if files.holds(names := engine.encoders.files[config.precision])
        ]
        if not found:
            raise ModelError(
                f"{files.folder}: was not built in precision {config.precision} "
                f"for {' or '.join(self._engines.wanted(config))}: import it again"
            )
        usable = [(engine, names) for engine, names in found if engine.is_installed()]
        return {engine.name: files.model_file(names) for engine, names in usable or found}


def _check_fit(proto: model_config_pb2.ModelConfig, config: EncoderConfig, card: ModelCard) -> None:
    """Refuse a configuration that does not fit the model."""
    if config.max_tokens > card.max_tokens:
        problem = f"is {config.max_tokens}, the model takes {card.max_tokens}"
        raise refused(proto, 'parameter "max_tokens"', problem)
    if card.include_prompt and not config.include_prompt:
        problem = "is false, the model was not built for it"
        raise refused(proto, 'parameter "include_prompt"', problem)
    if config.dim != card.dim:
        problem = f"has dim {config.dim}, the model has {card.dim}"
        raise refused(proto, 'output "embedding"', problem)


def _trial(tokenizer: TextTokenizer, config: EncoderConfig) -> list[TokenIds]:
    """Return sequences that show whether texts change each other's vectors."""
    if config.layout == PACKED:
        return []
    limit = min(TRIAL_TOKENS, config.max_tokens)
    found = tokenizer.encode(TRIAL_TEXTS, max_tokens=TRIAL_TOKENS)
    return [text.ids[:limit] for text in found if len(text.ids)]


def _in_force(
    proto: model_config_pb2.ModelConfig, config: EncoderConfig, loaded: LoadedEncoder
) -> model_config_pb2.ModelConfig:
    """Return the configuration with what was chosen in place of the choices."""
    shown = model_config_pb2.ModelConfig()
    shown.CopyFrom(proto)
    shown.parameters["engine"].string_value = loaded.engine
    if config.layout != PACKED:
        shown.parameters[RUN_ALONE].string_value = str(loaded.run_alone).lower()
    return shown
