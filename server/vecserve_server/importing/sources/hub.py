"""Fetch a checkpoint from the Hugging Face hub, pinned to a commit.

Owns which files of a repository are needed and what can go wrong on the way. Must not know what is
in them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatch
from functools import partial
from pathlib import Path
from typing import Any

from vecserve_server.errors import InvalidArgument, ModelError
from vecserve_server.importing.sources.external_data import ONNX_FILES, external_files, load_model

PREFIX = "hf:"

_REPOSITORY = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?")
_SETTINGS = (
    "config.json",
    "modules.json",
    "adapter_config.json",
    "added_tokens.json",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "sentence_*_config.json",
    "config_sentence_transformers.json",
    "README.md",
    "[0-9]*_*/*.json",
)
_MODULES = ("[0-9]*_*/model.safetensors", "[0-9]*_*/model-*-of-*.safetensors")
_WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "model-*-of-*.safetensors")


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


def settings_files(names: Iterable[str]) -> list[str]:
    """Choose what to fetch first: settings and the tokenizer, which say what else is needed."""
    return sorted(_matching(names, _SETTINGS))


def weight_files(names: Iterable[str], *, buildable: bool) -> list[str]:
    """Choose what to fetch next: the weights; one ONNX file where they cannot be used.

    `buildable` tells whether the encoder can be built from its weights.
    """
    known = list(names)
    of_encoder = _matching(known, _WEIGHTS)
    onnx = [name for name in ONNX_FILES if name in known][:1]
    chosen = of_encoder if of_encoder and (buildable or not onnx) else onnx
    return sorted({*_matching(known, _MODULES), *chosen})


def fetch(
    source: HubSource,
    *,
    is_buildable: Callable[[Path], bool],
    endpoint: str | None = None,
    cache_folder: Path | None = None,
    progress: Callable[[str, float], None] = lambda _step, _fraction: None,
) -> HubCheckpoint:
    """Fetch what is needed into the hub's own cache; files that are there are not fetched again.

    `is_buildable` is asked of the folder once its settings are there: whether the encoder can be
    built from its weights. `endpoint` and `cache_folder` are those of the environment when None.
    Raises `ModelError` where huggingface_hub is not installed, the hub cannot be reached, or it
    has no such repository.
    """
    hub = _library()
    try:
        info = hub.HfApi(endpoint=endpoint).model_info(
            source.repository, revision=source.revision, files_metadata=True
        )
        size_by_name = {file.rfilename: file.size or 0 for file in info.siblings}
        download = partial(
            hub.hf_hub_download,
            source.repository,
            revision=info.sha,
            endpoint=endpoint,
            cache_dir=cache_folder,
        )
        fetched = _Fetched(size_by_name, download, progress)
        folder = fetched.take(settings_files(size_by_name))
        if folder is not None:
            chosen = weight_files(size_by_name, buildable=is_buildable(folder))
            fetched.take(chosen)
            fetched.take(_data_files(folder, chosen, size_by_name))
    except ModelError:
        raise
    except Exception as error:
        raise ModelError(_explain(source, error)) from error
    if folder is None:
        raise ModelError(f"{PREFIX}{source.repository} holds no checkpoint")
    digests = {file.rfilename: file.lfs.sha256 for file in info.siblings if file.lfs is not None}
    return HubCheckpoint(
        folder=folder,
        commit=info.sha,
        sha256_by_file={name: digests[name] for name in fetched.names if name in digests},
    )


@dataclass(slots=True)
class _Fetched:
    """What was fetched so far."""

    size_by_name: Mapping[str, int]
    download: Callable[[str], str]
    progress: Callable[[str, float], None]
    names: list[str] = field(default_factory=list)
    done_bytes: int = 0
    share: float = 0.0

    def take(self, names: Sequence[str]) -> Path | None:
        """Fetch more files; return the checkpoint's folder, None where there are none."""
        folder, first, before_bytes = None, self.share, self.done_bytes
        total_bytes = sum(self.size_by_name[name] for name in names) or 1
        for name in names:
            part = (self.done_bytes - before_bytes) / total_bytes
            # How much there is in all becomes known on the way only.
            self.share = first + (1 - first) * part * _PHASE_SHARE
            self.progress(f"fetch {name}", self.share)
            folder = Path(self.download(name)).parents[name.count("/")]
            self.done_bytes += self.size_by_name[name]
            self.names.append(name)
        return folder


_PHASE_SHARE = 0.9


def _data_files(folder: Path, chosen: Sequence[str], known: Iterable[str]) -> list[str]:
    """Return the files in which a fetched ONNX file keeps its tensors, where the hub has them."""
    there = set(known)
    found = {
        path.relative_to(folder).as_posix()
        for name in chosen
        if name.endswith(".onnx")
        for path in external_files(load_model(folder / name), folder / name)
    }
    return sorted(found & there)


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
