"""Fetch a checkpoint from the Hugging Face hub, pinned to a commit.

Owns which files of a repository are needed and what can go wrong on the way. Must not know what is
in them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from vecserve_server.errors import InvalidArgument, ModelError

PREFIX = "hf:"

_REPOSITORY = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?")
_SETTINGS = (
    "config.json",
    "modules.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "sentence_*_config.json",
    "config_sentence_transformers.json",
    "README.md",
    "[0-9]*_*/*.json",
    "[0-9]*_*/model.safetensors",
)
_WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "model-*-of-*.safetensors")
_ONNX = ("onnx/model.onnx", "onnx/model.onnx_data", "model.onnx", "model.onnx_data")


@dataclass(frozen=True, slots=True, kw_only=True)
class HubSource:
    """A model repository on the hub."""

    repository: str
    revision: str | None = None
    """A branch, a tag or a commit; the main branch when None."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HubCheckpoint:
    """A checkpoint fetched into the local cache."""

    folder: Path
    commit: str
    sha256_by_file: Mapping[str, str]
    """What the hub says that its large files hash to."""


def parse_source(text: str) -> HubSource | None:
    """Read `hf:ORG/NAME[@REVISION]`; None for anything without the prefix.

    Raises `InvalidArgument` for a malformed name.
    """
    if not text.startswith(PREFIX):
        return None
    repository, at, revision = text.removeprefix(PREFIX).partition("@")
    if not _REPOSITORY.fullmatch(repository) or (at and not revision):
        raise InvalidArgument("source", f"{text!r} is not hf:ORG/NAME or hf:ORG/NAME@REVISION")
    return HubSource(repository=repository, revision=revision or None)


def needed_files(names: Iterable[str]) -> list[str]:
    """Choose the files to fetch: settings, tokenizer and weights; ONNX where no weights are."""
    known = list(names)
    weights = _matching(known, _WEIGHTS)
    return sorted({*_matching(known, _SETTINGS), *(weights or _matching(known, _ONNX))})


def fetch(
    source: HubSource,
    *,
    endpoint: str | None = None,
    cache_folder: Path | None = None,
    progress: Callable[[str, float], None] = lambda _step, _fraction: None,
) -> HubCheckpoint:
    """Fetch what is needed into the hub's own cache; files that are there are not fetched again.

    `endpoint` and `cache_folder` are those of the environment when None. Raises `ModelError` where
    huggingface_hub is not installed, the hub cannot be reached, or it has no such repository.
    """
    hub = _library()
    try:
        info = hub.HfApi(endpoint=endpoint).model_info(
            source.repository, revision=source.revision, files_metadata=True
        )
        size_by_name = {file.rfilename: file.size or 0 for file in info.siblings}
        names = needed_files(size_by_name)
        total_bytes = sum(size_by_name[name] for name in names) or 1
        done_bytes, folder = 0, None
        for name in names:
            progress(f"fetch {name}", done_bytes / total_bytes)
            path = hub.hf_hub_download(
                source.repository,
                name,
                revision=info.sha,
                endpoint=endpoint,
                cache_dir=cache_folder,
            )
            folder = Path(path).parents[name.count("/")]
            done_bytes += size_by_name[name]
    except Exception as error:
        raise ModelError(_explain(source, error)) from error
    if folder is None:
        raise ModelError(f"{PREFIX}{source.repository} holds no checkpoint")
    digests = {file.rfilename: file.lfs.sha256 for file in info.siblings if file.lfs is not None}
    return HubCheckpoint(
        folder=folder,
        commit=info.sha,
        sha256_by_file={name: digests[name] for name in names if name in digests},
    )


def _matching(names: Iterable[str], patterns: Iterable[str]) -> list[str]:
    found = list(patterns)
    return [
        name
        for name in names
        if any(
            fnmatch(name, pattern) and name.count("/") == pattern.count("/") for pattern in found
        )
    ]


def _library() -> Any:
    try:
        import huggingface_hub  # noqa: PLC0415 - of the [export] extra
    except ModuleNotFoundError as error:
        raise ModelError(
            "huggingface_hub is not installed: install vecserve[export], or give a folder"
        ) from error
    return huggingface_hub


def _explain(source: HubSource, error: Exception) -> str:
    name = f"{PREFIX}{source.repository}"
    kind = type(error).__name__
    if kind in ("RepositoryNotFoundError", "GatedRepoError"):
        return f"{name}: the hub has no such repository, or it needs a token (HF_TOKEN)"
    if kind == "RevisionNotFoundError":
        return f"{name}: the hub has no revision {source.revision}"
    reason = (str(error).strip() or kind).splitlines()[0]
    return (
        f"{name}: cannot be fetched from the hub ({reason}); where this machine is offline, copy "
        "the checkpoint's folder here and give its path"
    )
