"""Read a sentence-transformers or plain transformers folder.

Owns the meaning of its files and the checks on them. Must not know ONNX or the model repository.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from vecserve_server.domain import Json
from vecserve_server.errors import ModelError
from vecserve_server.export.card import sha256_of
from vecserve_server.export.family import ModelConfigJson
from vecserve_server.export.json_file import existing, read_object, read_object_if_there
from vecserve_server.export.modules import Modules, read_modules

_NO_LIMIT = 1_000_000
"""`model_max_length` is a huge number where a tokenizer knows no limit."""
_SLOW_TOKENIZERS = (
    "sentencepiece.bpe.model",
    "spiece.model",
    "tokenizer.model",
    "sentencepiece.model",
    "vocab.txt",
    "vocab.json",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """A text encoder as its authors published it, read and checked, but for its weights."""

    folder: Path
    config: ModelConfigJson
    modules: Modules
    tokenizer_json: bytes
    max_seq_length: int | None
    """The limit that the authors set, special tokens included; None where they set none."""
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
    config_file = existing(modules.encoder / "config.json")
    tokenizer_file = _tokenizer_file(modules.encoder)
    prompts, default_prompt = _prompts(folder)
    lower_case, max_seq_length = _sentence_settings(modules.encoder)
    tokenizer_json = tokenizer_file.read_bytes()
    return Checkpoint(
        folder=folder,
        config=ModelConfigJson(read_object(config_file)),
        modules=modules,
        tokenizer_json=_lower_casing(tokenizer_json) if lower_case else tokenizer_json,
        max_seq_length=max_seq_length,
        model_max_length=_model_max_length(modules.encoder),
        prompts=prompts,
        default_prompt=default_prompt,
        licence=_licence(folder),
        files=(config_file, tokenizer_file, *modules.files),
    )


def _check_hashes(folder: Path, expected: Mapping[str, str]) -> None:
    for name, digest in expected.items():
        found = sha256_of(existing(folder / name))
        if found != digest:
            raise ModelError(f"{name}: sha256 is {found}, expected {digest}")


def _tokenizer_file(folder: Path) -> Path:
    path = folder / "tokenizer.json"
    slow = [name for name in _SLOW_TOKENIZERS if (folder / name).is_file()]
    if slow and not path.is_file():
        raise ModelError(
            f"tokenizer.json is missing from {folder}: {slow[0]} alone is not read; write it with "
            "transformers: AutoTokenizer.from_pretrained(FOLDER).save_pretrained(FOLDER)"
        )
    return existing(path)


def _sentence_settings(encoder: Path) -> tuple[bool, int | None]:
    """Return whether texts are lower-cased first, and the longest text in tokens."""
    name = "sentence_bert_config.json"
    settings = read_object_if_there(encoder / name)
    limit = settings.get("max_seq_length")
    if limit is not None and not _is_positive(limit):
        raise ModelError(f"{name}: max_seq_length is {limit!r}, not a positive whole number")
    return settings.get("do_lower_case") is True, limit if isinstance(limit, int) else None


def _model_max_length(encoder: Path) -> int | None:
    limit = read_object_if_there(encoder / "tokenizer_config.json").get("model_max_length")
    known = isinstance(limit, int) and _is_positive(limit) and limit < _NO_LIMIT
    return limit if known and isinstance(limit, int) else None


def _is_positive(value: Json) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _lower_casing(tokenizer_json: bytes) -> bytes:
    """Return the tokenizer with lower-casing before its own normalisation."""
    try:
        tokenizer = json.loads(tokenizer_json)
        steps = [{"type": "Lowercase"}, tokenizer["normalizer"]]
    except (ValueError, TypeError, KeyError) as error:
        raise ModelError(f"tokenizer.json: not a usable tokenizer ({error})") from error
    normalizers = [step for step in steps if step is not None]
    tokenizer["normalizer"] = {"type": "Sequence", "normalizers": normalizers}
    return json.dumps(tokenizer, ensure_ascii=False).encode()


def _prompts(folder: Path) -> tuple[dict[str, str], str | None]:
    path = folder / "config_sentence_transformers.json"
    settings = read_object_if_there(path)
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
