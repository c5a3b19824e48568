"""Read a sentence-transformers folder.

Owns the meaning of its files and the checks on them. Must not know ONNX or the model repository.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from vecserve_server.domain import Json
from vecserve_server.errors import ModelError
from vecserve_server.export.card import sha256_of
from vecserve_server.export.family import ModelConfigJson, Weights

JsonObject: TypeAlias = dict[str, Json]

_WEIGHTS = "model.safetensors"
_POOLING_KEY = re.compile(r"pooling_mode_(?P<mode>\w+?)(?:_tokens?)?")
_FLOATS = ("F16", "F32", "F64")


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """A sentence-transformers model, read and checked."""

    config: ModelConfigJson
    weights: Weights
    tokenizer_json: bytes
    pooling: str
    max_tokens: int | None
    """The limit that the authors set, special tokens included; None where they set none."""
    prompts: Mapping[str, str]
    default_prompt: str | None
    licence: str | None
    sha256_by_file: Mapping[str, str]
    """Of the weights, the tokenizer and `config.json`."""


def read_checkpoint(
    folder: Path, *, expected_sha256: Mapping[str, str] | None = None
) -> Checkpoint:
    """Read the folder; raises `ModelError` naming the file and what is wrong with it.

    `expected_sha256` maps file names relative to the folder to hex digests; a file with another
    digest is refused before it is parsed.
    """
    _check_hashes(folder, expected_sha256 or {})
    modules = _modules(folder)
    encoder = _subfolder(folder, modules["Transformer"])
    prompts, default_prompt = _prompts(folder)
    inputs = {
        name: _existing(encoder / name) for name in ("config.json", "tokenizer.json", _WEIGHTS)
    }
    return Checkpoint(
        config=ModelConfigJson(_read_object(inputs["config.json"])),
        weights=Weights(_read_tensors(inputs[_WEIGHTS])),
        tokenizer_json=inputs["tokenizer.json"].read_bytes(),
        pooling=_pooling(_subfolder(folder, modules["Pooling"])),
        max_tokens=_max_tokens(encoder),
        prompts=prompts,
        default_prompt=default_prompt,
        licence=_licence(folder),
        sha256_by_file={name: sha256_of(path) for name, path in inputs.items()},
    )


def _check_hashes(folder: Path, expected: Mapping[str, str]) -> None:
    for name, digest in expected.items():
        found = sha256_of(_existing(folder / name))
        if found != digest:
            raise ModelError(f"{name}: sha256 is {found}, expected {digest}")


def _modules(folder: Path) -> dict[str, str]:
    """Return the path of each module by its kind."""
    listed = _read_json(_existing(folder / "modules.json"))
    if not isinstance(listed, list):
        raise ModelError("modules.json: not a list of modules")
    paths: dict[str, str] = {}
    for module in listed:
        if not isinstance(module, dict):
            raise ModelError("modules.json: a module is not an object")
        kind = str(module.get("type", "")).rpartition(".")[2]
        if kind not in ("Transformer", "Pooling", "Normalize") or kind in paths:
            raise ModelError(
                f"modules.json: module {kind or '(unnamed)'} is not supported "
                "(supported: one Transformer, one Pooling, an optional Normalize)"
            )
        paths[kind] = str(module.get("path", ""))
    for kind in ("Transformer", "Pooling"):
        if kind not in paths:
            raise ModelError(f"modules.json: module {kind} is missing")
    return paths


def _subfolder(folder: Path, relative: str) -> Path:
    if Path(relative).is_absolute() or ".." in Path(relative).parts:
        raise ModelError(f"modules.json: path {relative!r} leads out of the checkpoint")
    return folder / relative


def _pooling(folder: Path) -> str:
    config = _read_object(_existing(folder / "config.json"))
    where = f"{folder.name}/config.json"
    if config.get("include_prompt") is False:
        raise ModelError(f"{where}: include_prompt = false is not supported")
    modes = [
        match["mode"]
        for key, value in config.items()
        if value is True and (match := _POOLING_KEY.fullmatch(key))
    ]
    if isinstance(config.get("pooling_mode"), str):
        modes.append(str(config["pooling_mode"]))
    if len(set(modes)) != 1:
        raise ModelError(f"{where}: one pooling mode is supported, found {modes}")
    return modes[0]


def _max_tokens(encoder: Path) -> int | None:
    path = encoder / "sentence_bert_config.json"
    if not path.exists():
        return None
    settings = _read_object(path)
    if settings.get("do_lower_case") is True:
        raise ModelError(f"{path.name}: do_lower_case = true is not supported")
    limit = settings.get("max_seq_length")
    if limit is None:
        return None
    if isinstance(limit, bool) or not isinstance(limit, int) or limit < 1:
        raise ModelError(f"{path.name}: max_seq_length is {limit!r}, not a positive whole number")
    return limit


def _prompts(folder: Path) -> tuple[dict[str, str], str | None]:
    path = folder / "config_sentence_transformers.json"
    settings = _read_object(path) if path.exists() else {}
    prompts = settings.get("prompts") or {}
    default = settings.get("default_prompt_name")
    if not isinstance(prompts, dict):
        raise ModelError(f"{path.name}: prompts is not an object")
    texts = {name: text for name, text in prompts.items() if isinstance(text, str)}
    if len(texts) != len(prompts):
        raise ModelError(f"{path.name}: a prompt is not a string")
    if default is None:
        return texts, None
    if not isinstance(default, str) or default not in texts:
        raise ModelError(f"{path.name}: default_prompt_name {default!r} names no prompt")
    return texts, default


def _licence(folder: Path) -> str | None:
    """Return the licence that the front matter of README.md states."""
    path = folder / "README.md"
    text = path.read_text("utf-8", errors="replace") if path.exists() else ""
    front_matter = re.match(r"---\n(.*?)\n---", text, re.DOTALL)
    stated = re.search(r"^license:\s*(\S+)", front_matter[1] if front_matter else "", re.MULTILINE)
    return stated[1] if stated else None


def _read_tensors(path: Path) -> dict[str, NDArray[np.float32]]:
    """Return the float tensors; others, such as position ids, are not weights."""
    try:
        with safe_open(path, framework="numpy") as file:
            kinds = {name: file.get_slice(name).get_dtype() for name in file.keys()}  # noqa: SIM118
            for name, kind in kinds.items():
                if kind.startswith(("F", "BF")) and kind not in _FLOATS:
                    known = ", ".join(_FLOATS)
                    raise ModelError(f"{path.name}: tensor {name} is {kind} (supported: {known})")
            tensors = {
                name: np.asarray(file.get_tensor(name), np.float32)
                for name, kind in kinds.items()
                if kind in _FLOATS
            }
    except SafetensorError as error:
        raise ModelError(f"{path.name}: not a readable safetensors file ({error})") from error
    for name, tensor in tensors.items():
        if not np.isfinite(tensor).all():
            raise ModelError(f"{path.name}: tensor {name} holds a value that is not finite")
    return tensors


def _existing(path: Path) -> Path:
    if not path.is_file():
        raise ModelError(f"{path.name} is missing from {path.parent}")
    return path


def _read_object(path: Path) -> JsonObject:
    value = _read_json(path)
    if not isinstance(value, dict):
        raise ModelError(f"{path.name}: not a JSON object")
    return value


def _read_json(path: Path) -> Json:
    try:
        value: Json = json.loads(path.read_bytes())
    except ValueError as error:
        raise ModelError(f"{path.name}: not valid JSON ({error})") from error
    return value
