"""Read which modules a sentence-transformers folder chains, and what each is set to.

Owns `modules.json` and the modules' own files. Must not know ONNX or the encoder's weights.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from vecserve_server.errors import ModelError
from vecserve_server.importing.graph.head import Dense, Head, Normalise, Step
from vecserve_server.importing.graph.pooling import POOLING_BY_NAME
from vecserve_server.importing.sources.json_file import (
    JsonObject,
    read_json,
    read_object,
    read_object_if_there,
)
from vecserve_server.importing.sources.tensors import WEIGHTS_FILE, weight_files

_POOLING_KEY = re.compile(r"pooling_mode_(?P<mode>\w+?)(?:_tokens?)?")
_SUPPORTED = "supported: one Transformer, one Pooling, then Dense, Dropout and Normalize"


@dataclass(frozen=True, slots=True, kw_only=True)
class Modules:
    """A checkpoint's chain of modules."""

    encoder: Path
    """The folder of the transformer."""
    head: Head
    files: tuple[Path, ...]
    """What was read."""
    assumed: str | None = None
    """What was taken for granted, in words."""


def read_modules(folder: Path) -> Modules:
    """Read the chain; a folder without `modules.json` gets mean pooling and no normalisation.

    Raises `ModelError` for a chain, a module or a setting that is not supported.
    """
    if not (folder / "modules.json").exists():
        return Modules(
            encoder=folder,
            head=Head(poolings=("mean",), normalise=False),
            files=(),
            assumed="mean pooling, not normalised: the checkpoint has no modules.json",
        )
    chain = _chain(folder)
    kinds = [kind for kind, _ in chain]
    for number, kind in enumerate(("Transformer", "Pooling")):
        if kinds[number : number + 1] != [kind]:
            raise ModelError(f"modules.json: module {kind} is missing ({_SUPPORTED})")
    steps = [_step(kind, path) for kind, path in chain[2:] if kind != "Dropout"]
    normalise = bool(steps) and isinstance(steps[-1], Normalise)
    return Modules(
        encoder=chain[0][1],
        head=Head(
            poolings=read_poolings(chain[1][1] / "config.json"),
            include_prompt=_include_prompt(chain[1][1] / "config.json"),
            steps=tuple(steps[:-1] if normalise else steps),
            normalise=normalise,
        ),
        files=(folder / "modules.json", *_files(path for _, path in chain[1:])),
    )


def encoder_folder(folder: Path) -> Path:
    """Return the folder of the transformer; raises `ModelError` for an unsupported chain."""
    if not (folder / "modules.json").exists():
        return folder
    chain = _chain(folder)
    return chain[0][1] if chain else folder


def read_poolings(path: Path) -> tuple[str, ...]:
    """Return the pooling modes that a module's `config.json` names, in joining order.

    Mean where it names none, as in sentence-transformers.
    """
    config = read_object(path)
    where = f"{path.parent.name}/{path.name}"
    modes = _stated_modes(config) or _switched_on_modes(config) or ["mean"]
    unknown = [mode for mode in modes if mode not in POOLING_BY_NAME]
    if unknown:
        supported = ", ".join(POOLING_BY_NAME)
        raise ModelError(f"{where}: pooling mode {unknown[0]!r} (supported: {supported})")
    return tuple(modes)


def _include_prompt(path: Path) -> bool:
    value = read_object(path).get("include_prompt", True)
    if not isinstance(value, bool):
        where = f"{path.parent.name}/{path.name}"
        raise ModelError(f"{where}: include_prompt is {value!r}, not true or false")
    return value


def _stated_modes(config: JsonObject) -> list[str]:
    """Return the modes of the newer setting `pooling_mode`, a name or a list in joining order."""
    stated = config.get("pooling_mode")
    listed = stated if isinstance(stated, list) else [stated] if stated is not None else []
    return [str(mode).removesuffix("_tokens") for mode in listed]


def _switched_on_modes(config: JsonObject) -> list[str]:
    """Return the modes of the older settings, one flag each, in the order that is always used."""
    modes = {
        match["mode"]
        for key, value in config.items()
        if value is True and (match := _POOLING_KEY.fullmatch(key))
    }
    known = [mode for mode in POOLING_BY_NAME if mode in modes]
    return [*known, *sorted(modes.difference(known))]


def _chain(folder: Path) -> list[tuple[str, Path]]:
    """Return the kind and the folder of each module."""
    listed = read_json(folder / "modules.json")
    if not isinstance(listed, list):
        raise ModelError("modules.json: not a list of modules")
    chain: list[tuple[str, Path]] = []
    for module in listed:
        if not isinstance(module, dict):
            raise ModelError("modules.json: a module is not an object")
        package, _, kind = str(module.get("type", "")).rpartition(".")
        if package.partition(".")[0] != _PACKAGE:
            raise ModelError(
                f"modules.json: type {module.get('type')!r} is code of the checkpoint's own, "
                "which is not run"
            )
        allowed = ("Dense", "Dropout", "Normalize") if len(chain) > 1 else _FIRST[len(chain)]
        if kind not in allowed:
            raise ModelError(
                f"modules.json: module {kind or '(unnamed)'} is not supported at place "
                f"{len(chain)} ({_SUPPORTED})"
            )
        chain.append((kind, _subfolder(folder, str(module.get("path", "")))))
    return chain


def _files(folders: Iterable[Path]) -> Iterator[Path]:
    for folder in folders:
        yield from (folder / name for name in _MODULE_FILES if (folder / name).is_file())


_PACKAGE = "sentence_transformers"
_SENTENCE = "sentence_embedding"
_MODULE_FILES = ("config.json", WEIGHTS_FILE)
_FIRST = (("Transformer",), ("Pooling",))


def _subfolder(folder: Path, relative: str) -> Path:
    if Path(relative).is_absolute() or ".." in Path(relative).parts:
        raise ModelError(f"modules.json: path {relative!r} leads out of the checkpoint")
    return folder / relative


def _step(kind: str, folder: Path) -> Step:
    if kind == "Dense":
        return _dense(folder)
    _check_names(folder, read_object_if_there(folder / "config.json"))
    return Normalise()


def _check_names(folder: Path, config: JsonObject) -> None:
    """Refuse a module between other values than the pooled vectors."""
    for key in ("module_input_name", "module_output_name"):
        if config.get(key) not in (None, _SENTENCE):
            raise ModelError(
                f"{folder.name}/config.json: {key} must be {_SENTENCE}, found {config[key]!r}"
            )


def _dense(folder: Path) -> Dense:
    config = read_object(folder / "config.json")
    _check_names(folder, config)
    if config.get("use_residual"):
        raise ModelError(f"{folder.name}/config.json: use_residual is not supported")
    weights = weight_files(folder).read()
    if "linear.weight" not in weights or weights["linear.weight"].ndim != 2:
        raise ModelError(f"{folder.name}/model.safetensors: tensor linear.weight [N, K] is missing")
    weight, bias = weights["linear.weight"], weights.get("linear.bias")
    if bias is not None and bias.shape != weight.shape[:1]:
        raise ModelError(
            f"{folder.name}/model.safetensors: tensor linear.bias has shape {list(bias.shape)}, "
            f"expected {list(weight.shape[:1])}"
        )
    return Dense(weight=weight, bias=bias, activation=_activation(folder, config))


def _activation(folder: Path, config: JsonObject) -> str:
    """Return the exporter's name for a PyTorch class such as `torch.nn.modules.activation.Tanh`."""
    stated = str(config.get("activation_function", _DEFAULT_ACTIVATION))
    package, _, name = stated.rpartition(".")
    if package.partition(".")[0] != "torch" or name not in _ACTIVATION_BY_CLASS:
        known = ", ".join(_ACTIVATION_BY_CLASS)
        raise ModelError(
            f"{folder.name}/config.json: activation_function {stated} is not supported "
            f"(supported, of torch.nn: {known})"
        )
    return _ACTIVATION_BY_CLASS[name]


_DEFAULT_ACTIVATION = "torch.nn.modules.activation.Tanh"
_ACTIVATION_BY_CLASS = {
    "Identity": "identity",
    "Tanh": "tanh",
    "GELU": "gelu",
    "ReLU": "relu",
    "ReLU6": "relu6",
    "LeakyReLU": "leaky_relu",
    "ELU": "elu",
    "SELU": "selu",
    "Sigmoid": "sigmoid",
    "LogSigmoid": "logsigmoid",
    "Hardsigmoid": "hardsigmoid",
    "Hardswish": "hardswish",
    "Hardtanh": "hardtanh",
    "Mish": "mish",
    "SiLU": "silu",
    "Softplus": "softplus",
    "Softsign": "softsign",
}
