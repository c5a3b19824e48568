"""Read a sentence-transformers or plain transformers folder.

Owns the meaning of its files and the checks on them. Must not know ONNX or the model repository.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from vecserve_server.errors import ModelError
from vecserve_server.importing.families.family import ModelConfigJson
from vecserve_server.importing.sources.json_file import existing, read_object, read_object_if_there
from vecserve_server.importing.sources.modules import Modules, read_modules
from vecserve_server.importing.sources.sentence_settings import (
    SENTENCE_FILES,
    SentenceSettings,
    read_sentence_settings,
)
from vecserve_server.importing.sources.tokenizer_settings import lower_casing, read_tokenizer
from vecserve_server.model_files.card import sha256_of

_ADAPTER = "adapter_config.json"
_NAME = "config_sentence_transformers.json"
_OWN_PROMPTS = ("query", "document")
"""sentence-transformers knows these names, with empty prompts, whether they are stated or not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """A text encoder as its authors published it, read and checked, but for its weights."""

    folder: Path
    config: ModelConfigJson
    modules: Modules
    tokenizer_json: bytes
    truncation_side: str
    """`right` or `left`: the end at which texts that are too long are cut."""
    sentence: SentenceSettings
    """What sentence-transformers keeps beside the encoder."""
    model_max_length: int | None
    """The tokenizer's limit, which may exceed what the encoder takes."""
    prompts: Mapping[str, str]
    default_prompt: str | None
    licence: str | None
    files: tuple[Path, ...]
    """What was read."""

    def sha256_by_file(self, *more: Path) -> dict[str, str]:
        """Hash what was read and `more`; names are relative to the folder."""
        paths = dict.fromkeys((*self.files, *more))
        return {path.relative_to(self.folder).as_posix(): sha256_of(path) for path in paths}


def read_checkpoint(
    folder: Path, *, expected_sha256: Mapping[str, str] | None = None
) -> Checkpoint:
    """Read the folder; raises `ModelError` naming the file and what is wrong with it.

    `expected_sha256` maps file names relative to the folder to hex digests; a file with another
    digest is refused before it is parsed.
    """
    _check_hashes(folder, expected_sha256 or {})
    modules = read_modules(folder)
    if (modules.encoder / _ADAPTER).is_file():
        raise ModelError(f"{_ADAPTER}: an adapter is not applied; merge it into the weights first")
    config_file = existing(modules.encoder / "config.json")
    config = ModelConfigJson(read_object(config_file))
    tokenizer = read_tokenizer(modules.encoder, config)
    # Without modules.json sentence-transformers reads none of its own files.
    chained = modules.assumed is None
    sentence = read_sentence_settings(modules.encoder) if chained else SentenceSettings()
    prompts, default_prompt = _prompts(folder) if chained else ({}, None)
    prompt_files = (folder / _NAME,) if chained and (folder / _NAME).is_file() else ()
    return Checkpoint(
        folder=folder,
        config=config,
        modules=modules if chained else replace(modules, assumed=_assumed(modules)),
        tokenizer_json=(
            lower_casing(tokenizer.tokenizer_json)
            if sentence.lower_case
            else tokenizer.tokenizer_json
        ),
        truncation_side=tokenizer.truncation_side,
        sentence=sentence,
        model_max_length=tokenizer.max_tokens,
        prompts=prompts,
        default_prompt=default_prompt,
        licence=_licence(folder),
        files=(config_file, *tokenizer.files, *sentence.files, *prompt_files, *modules.files),
    )


def _assumed(modules: Modules) -> str:
    """Say what was taken for granted, and which files count for nothing without `modules.json`."""
    files = (modules.encoder / name for name in (*SENTENCE_FILES, _NAME))
    names = [file.name for file in files if read_object_if_there(file)]
    unread = f", without which {names[0]} is not read either" if names else ""
    return f"{modules.assumed}{unread}"


def _check_hashes(folder: Path, expected: Mapping[str, str]) -> None:
    for name, digest in expected.items():
        found = sha256_of(existing(folder / name))
        if found != digest:
            raise ModelError(f"{name}: sha256 is {found}, expected {digest}")


def _prompts(folder: Path) -> tuple[dict[str, str], str | None]:
    settings = read_object_if_there(folder / _NAME)
    kind = settings.get("model_type")
    if kind not in (None, "SentenceTransformer"):
        raise ModelError(f"{_NAME}: model_type {kind!r} is not supported (SentenceTransformer is)")
    prompts = settings.get("prompts") or {}
    default = settings.get("default_prompt_name")
    if not isinstance(prompts, dict):
        raise ModelError(f"{_NAME}: prompts is not an object")
    texts = {name: text or "" for name, text in prompts.items() if isinstance(text, str | None)}
    if len(texts) != len(prompts):
        raise ModelError(f"{_NAME}: a prompt is not a string")
    if default is None:
        return texts, None
    if default in _OWN_PROMPTS:
        texts.setdefault(str(default), "")
    if not isinstance(default, str) or default not in texts:
        raise ModelError(f"{_NAME}: default_prompt_name {default!r} names no prompt")
    return texts, default


def _licence(folder: Path) -> str | None:
    """Return the licence that the front matter of README.md states."""
    path = folder / "README.md"
    text = path.read_text("utf-8-sig", errors="replace") if path.exists() else ""
    front_matter = re.match(r"---\n(.*?)\n---", text, re.DOTALL)
    stated = re.search(r"^license:\s*(\S+)", front_matter[1] if front_matter else "", re.MULTILINE)
    return stated[1] if stated else None
