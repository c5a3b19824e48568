"""Find and load text models in a folder laid out as Triton's model repository.

Owns the layout `<model>/config.pbtxt`, `<model>/<version>/{model*.onnx, tokenizer.json,
card.json}` and the check of the files against the card. Must not know schedulers.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass, replace
from pathlib import Path

from vecserve.inference import model_config_pb2
from vecserve_server.domain.names import (
    MODEL_CONFIG_FILE,
    MODEL_NAME_PATTERN,
    MODEL_NAME_RULE,
    SHIPPED_MODEL,
)
from vecserve_server.domain.vectors import ModelRef, TokenIds
from vecserve_server.encoding.batch_dependence import TRIAL_TEXTS, TRIAL_TOKENS
from vecserve_server.encoding.cost_model import CostModel
from vecserve_server.encoding.encoder import Encoder, OnRun
from vecserve_server.encoding.loading import EncoderLoader, LoadedEncoder, ModelFile, ignored
from vecserve_server.encoding.tokenizer import TextTokenizer
from vecserve_server.engines.openvino_runtime import openvino_is_installed
from vecserve_server.errors import InvalidArgument, ModelError
from vecserve_server.model_files.model_config import (
    AUTO,
    ONNXRUNTIME,
    OPENVINO,
    PACKED,
    RUN_ALONE,
    EncoderConfig,
    encoder_config,
    read_model_config,
)

_VERSION = re.compile(r"[1-9][0-9]{0,17}")
_CARD = "card.json"
_TOKENIZER = "tokenizer.json"
CACHE_FOLDER = ".cache"
"""Under the repository: what was measured and compiled on this machine. May be removed."""

_HINT = "import it again (`vecserve models add ... --replace`)"


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
    """What runs: `onnxruntime` or `openvino`."""
    cost: CostModel
    """How long its runs take."""


class ModelRepository:
    """The models under one folder."""

    def __init__(self, root: Path, *, default_instances: int = 1) -> None:
        """Read `root`; models that don't say how many instances they have get the default."""
        self._root = root
        self._default_instances = default_instances
        self._loader = EncoderLoader(cache_folder=root / CACHE_FOLDER)

    def names(self) -> list[str]:
        """Return every model that has a configuration, in order."""
        if not self._root.is_dir():
            return []
        return sorted(
            folder.name
            for folder in self._root.iterdir()
            if MODEL_NAME_PATTERN.fullmatch(folder.name) and (folder / MODEL_CONFIG_FILE).is_file()
        )

    def versions(self, name: str) -> list[str]:
        """Return the model's versions, oldest first; empty where there are none.

        Raises `InvalidArgument` for a name that no model can have.
        """
        folder = self._folder(name)
        if not folder.is_dir():
            return []
        found = [path.name for path in folder.iterdir() if path.is_dir()]
        return sorted((name for name in found if _VERSION.fullmatch(name)), key=int)

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
        folder = self._folder(name)
        if proto is None:
            proto = read_model_config(folder / MODEL_CONFIG_FILE)
        config = encoder_config(proto)
        if config.name != name:
            raise ModelError(
                f'{name}/{MODEL_CONFIG_FILE}: name is "{config.name}", the folder is "{name}"'
            )
        if precision is not None:
            config = replace(config, precision=precision)
        if engine is not None:
            config = replace(config, engine=engine)
        files = _VersionFolder.open(folder, self._choose(name, version))
        _check_fit(files, config)
        files.verified(_TOKENIZER)
        tokenizer = TextTokenizer((files.path / _TOKENIZER).read_bytes())
        loaded = self._loader.load(
            {engine: files.model_file(engine, config) for engine in files.engines(config)},
            config,
            threads=config.instance_count or self._default_instances,
            trial=_trial(tokenizer, config),
            on_run=on_run,
        )
        return TextModel(
            ref=ModelRef(name=name, version=files.path.name, digest=loaded.digest),
            config=config,
            proto=_in_force(proto, config, loaded),
            tokenizer=tokenizer,
            encoder=loaded.encoder,
            engine=loaded.engine,
            cost=loaded.cost,
        )

    def _folder(self, name: str) -> Path:
        if not MODEL_NAME_PATTERN.fullmatch(name):
            raise InvalidArgument("name", f"{name!r}: {MODEL_NAME_RULE}")
        return self._root / name

    def _choose(self, name: str, version: str | None) -> str:
        versions = self.versions(name)
        if not versions:
            source = "default" if name == SHIPPED_MODEL else "SOURCE"
            raise ModelError(
                f"model {name} has no version in {self._root}: run `vecserve models add {source}`"
            )
        if version is not None and version not in versions:
            found = ", ".join(versions)
            raise ModelError(f"model {name} has no version {version} (found: {found})")
        return version or versions[-1]


@dataclass(frozen=True, slots=True)
class _VersionFolder:
    """The files of one version, and what the card says that they hash to."""

    path: Path
    sha256_by_file: dict[str, str]
    max_tokens: int
    dim: int
    include_prompt: bool
    """Whether the graph pools the tokens of a prompt like any others."""

    @classmethod
    def open(cls, model: Path, version: str) -> _VersionFolder:
        path = model / version / _CARD
        try:
            card = json.loads(path.read_bytes())
            digests = {name: str(file["sha256"]) for name, file in card["files"].items()}
            return cls(
                path=path.parent,
                sha256_by_file=digests,
                max_tokens=int(card["max_tokens"]),
                dim=int(card["dim"]),
                include_prompt=bool(card.get("include_prompt", True)),
            )
        except FileNotFoundError as error:
            raise ModelError(f"{path} is missing: {_HINT}") from error
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise ModelError(f"{path}: not a model card ({error}): {_HINT}") from error

    def engines(self, config: EncoderConfig) -> list[str]:
        """Return the engines that can run the version here, of those that the model may use."""
        wanted = (ONNXRUNTIME, OPENVINO) if config.engine == AUTO else (config.engine,)
        found = [
            engine
            for engine in wanted
            if all(name in self.sha256_by_file for name in _model_files(engine, config.precision))
        ]
        if not found:
            raise ModelError(
                f"{self.path}: was not built in precision {config.precision} "
                f"for {' or '.join(wanted)}: import it again"
            )
        usable = [engine for engine in found if engine != OPENVINO or openvino_is_installed()]
        return usable or found

    def model_file(self, engine: str, config: EncoderConfig) -> ModelFile:
        """Return what an engine runs, once its files are known to be the card's."""
        names = _model_files(engine, config.precision)
        # Where a large model keeps its tensors.
        names += tuple(name for name in self.sha256_by_file if name == f"{names[0]}.data")
        digests = [self.verified(name) for name in names]
        joined = hashlib.sha256("".join(digests).encode()).hexdigest()
        return ModelFile(
            path=self.path / names[0],
            digest=digests[0] if len(digests) == 1 else joined,
            size_bytes=sum((self.path / name).stat().st_size for name in names),
        )

    def verified(self, name: str) -> str:
        """Return the file's sha256 once it is known to be the card's."""
        expected = self.sha256_by_file.get(name)
        try:
            with (self.path / name).open("rb") as file:
                found = hashlib.file_digest(file, "sha256").hexdigest()
        except FileNotFoundError as error:
            raise ModelError(f"{self.path / name} is missing: {_HINT}") from error
        if found != expected:
            raise ModelError(
                f"{self.path / name}: sha256 is {found}, {_CARD} says {expected}: {_HINT}"
            )
        return found


def _model_files(engine: str, precision: str) -> tuple[str, ...]:
    """Return the file to open, and those that it reads; both engines read the fp32 ONNX file."""
    if precision == "fp32":
        return ("model.onnx",)
    if engine == OPENVINO:
        return (f"model.{precision}.xml", f"model.{precision}.bin")
    return (f"model.{precision}.onnx",)


def _check_fit(files: _VersionFolder, config: EncoderConfig) -> None:
    """Refuse a configuration that does not fit the model."""
    if config.max_tokens > files.max_tokens:
        raise ModelError(
            f'{config.name}/{MODEL_CONFIG_FILE}: parameter "max_tokens" is {config.max_tokens}, '
            f"the model takes {files.max_tokens}"
        )
    if files.include_prompt and not config.include_prompt:
        raise ModelError(
            f'{config.name}/{MODEL_CONFIG_FILE}: parameter "include_prompt" is false, '
            "the model was not built for it"
        )
    if config.dim != files.dim:
        raise ModelError(
            f'{config.name}/{MODEL_CONFIG_FILE}: output "embedding" has dim {config.dim}, '
            f"the model has {files.dim}"
        )


def _trial(tokenizer: TextTokenizer, config: EncoderConfig) -> list[TokenIds]:
    """Return what tells whether texts change each other's vectors."""
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
