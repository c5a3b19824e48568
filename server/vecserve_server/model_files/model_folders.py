"""What lies in the model repository, and which of it is to be served.

Owns what makes a folder a model, the version policy and what a load request brings along. Must not
know how versions are loaded. Any thread.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TypeAlias

from google.protobuf import json_format

from vecserve.inference import model_config_pb2
from vecserve_server.domain.names import MODEL_CONFIG_FILE, MODEL_NAME_RULE
from vecserve_server.errors import InvalidArgument, ModelError
from vecserve_server.model_files.config_file import named, read_config_file
from vecserve_server.model_files.layout import (
    check_model_name,
    is_model_name,
    is_version,
    model_folders,
    version_folders,
)

MAX_FILES = 1024
"""In one load request."""
_LISTED = 5
"""Most names in a message."""

Signature: TypeAlias = str
"""Changes when a file of a version or the model's configuration does."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundModel:
    """A model of the repository: its versions, and what they were when it was looked at."""

    name: str
    root: Path
    """The folder that holds the model's folder."""
    versions: Mapping[str, Signature]

    @property
    def folder(self) -> Path:
        """The model's folder."""
        return self.root / self.name


def scan(root: Path, names: Iterable[str] = ()) -> dict[str, FoundModel]:
    """Look at every model under `root`, or at those named; what is no model is left out."""
    wanted = set(names)
    return {
        folder.name: found
        for folder in model_folders(root)
        if (not wanted or folder.name in wanted) and (found := _look(root, folder)) is not None
    }


def unusable(root: Path) -> dict[str, str]:
    """Say of every folder under `root` that `scan` leaves out why it is no model.

    A hidden folder counts only where it holds a configuration.
    """
    if not root.is_dir():
        return {}
    folders = (folder for folder in sorted(root.iterdir()) if folder.is_dir())
    reasons = {folder.name: _why_unusable(folder) for folder in folders}
    return {_printable(name): reason for name, reason in reasons.items() if reason is not None}


def no_version_reason(model: FoundModel) -> str:
    """Say why none of a model's versions can be served."""
    if model.versions:
        return f"model {model.name!r} has no version that its policy admits"
    return f"model {model.name!r} has no version: {_version_rule(model.folder)}"


def _why_unusable(folder: Path) -> str | None:
    has_config = (folder / MODEL_CONFIG_FILE).is_file()
    if not is_model_name(folder.name):
        hidden = folder.name.startswith(".") and not has_config
        return None if hidden else f"the folder's name cannot be served: {MODEL_NAME_RULE}"
    if has_config or version_folders(folder.iterdir()):
        return None
    return f"the folder holds neither {MODEL_CONFIG_FILE} nor a version: {_version_rule(folder)}"


def _version_rule(folder: Path) -> str:
    found = [_printable(path.name) for path in sorted(folder.iterdir()) if path.is_dir()]
    listed = ", ".join(found[:_LISTED]) or "none"
    return f"version folders are named 1, 2, 3 ... (found: {listed})"


def _printable(name: str) -> str:
    """Return a name as text, whatever bytes the file system has."""
    return name.encode("utf-8", "backslashreplace").decode()


def read_config(model: FoundModel) -> model_config_pb2.ModelConfig:
    """Read a model's config.pbtxt; only its name is known where there is none.

    Raises ModelError for a file that is no configuration or names another model.
    """
    path = model.folder / MODEL_CONFIG_FILE
    proto = read_config_file(path) if path.is_file() else model_config_pb2.ModelConfig()
    return named(proto, model.name)


def parse_config(name: str, config_json: str) -> model_config_pb2.ModelConfig:
    """Parse the configuration that a load request brings; raises InvalidArgument."""
    try:
        proto = json_format.Parse(config_json, model_config_pb2.ModelConfig())
        return named(proto, name)
    except (json_format.ParseError, ModelError) as error:
        raise InvalidArgument("config", str(error)) from error


def chosen_versions(proto: model_config_pb2.ModelConfig, found: Iterable[str]) -> list[str]:
    """Apply the version policy; oldest first. The latest alone where there is none."""
    versions = sorted(found, key=int)
    policy = proto.version_policy
    match policy.WhichOneof("policy_choice"):
        case "all":
            return versions
        case "specific":
            wanted = {str(number) for number in policy.specific.versions}
            return [version for version in versions if version in wanted]
        case _:
            return versions[-max(1, policy.latest.num_versions) :]


def materialise(name: str, files: Mapping[str, bytes]) -> FoundModel:
    """Write the files `<version>/<path>` of a load request to a temporary folder.

    The caller removes `root`. Raises InvalidArgument for a path that leads elsewhere.
    """
    if len(files) > MAX_FILES:
        raise InvalidArgument("files", f"hold {len(files)} files; the limit is {MAX_FILES}")
    paths = {_safe_path(key): content for key, content in files.items()}
    root = Path(tempfile.mkdtemp(prefix="vecserve-model-"))
    try:
        (root / name).mkdir()
        for path, content in paths.items():
            target = root / name / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)
    except OSError as error:
        shutil.rmtree(root, ignore_errors=True)
        raise InvalidArgument("files", f"files cannot be stored: {error.strerror}") from error
    found = _look(root, root / name)
    versions = dict.fromkeys(found.versions if found else (), _content_signature(paths))
    return FoundModel(name=name, root=root, versions=versions)


def check_name(name: str) -> None:
    """Refuse what cannot be the name of a model, and would lead out of the repository."""
    check_model_name("model_name", name)


def _look(root: Path, folder: Path) -> FoundModel | None:
    if not folder.is_dir():
        return None
    parts = list(folder.iterdir())
    versions = version_folders(parts)
    if not versions and not (folder / MODEL_CONFIG_FILE).is_file():
        return None
    # The configuration, and what it may name beside it: labels, inputs for warming up.
    common = _signature(file for path in parts if path not in versions for file in _files(path))
    return FoundModel(
        name=folder.name,
        root=root,
        versions={path.name: f"{common}-{_signature(_files(path))}" for path in versions},
    )


def _files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    return sorted(Path(parent) / name for parent, _, names in os.walk(path) for name in names)


def _signature(paths: Iterable[Path]) -> Signature:
    digest = hashlib.blake2b(digest_size=16)
    for path in sorted(paths):
        try:
            facts = path.stat()
        except OSError:
            continue  # it is being replaced; the next look differs
        digest.update(f"{path}\0{facts.st_mtime_ns} {facts.st_size} {facts.st_ino}\0".encode())
    return digest.hexdigest()


def _content_signature(files: Mapping[PurePosixPath, bytes]) -> Signature:
    digest = hashlib.blake2b(digest_size=16)
    for path, content in sorted(files.items()):
        digest.update(f"{path}\0{len(content)}\0".encode())
        digest.update(content)
    return digest.hexdigest()


def _safe_path(key: str) -> PurePosixPath:
    path = PurePosixPath(key)
    parts = path.parts
    if len(parts) < 2 or not is_version(parts[0]) or ".." in parts or not key.isprintable():
        raise InvalidArgument(("files", key), "must be file:<version>/<path>")
    return path


class TemporaryRoot:
    """A folder that is removed when the last version that was loaded from it is closed."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._users = 0
        self._lock = threading.Lock()

    def acquire(self) -> None:
        """Become a user."""
        with self._lock:
            self._users += 1

    def release(self) -> None:
        """Leave; the last one removes the folder."""
        with self._lock:
            self._users -= 1
            if not self._users:
                shutil.rmtree(self._path, ignore_errors=True)
