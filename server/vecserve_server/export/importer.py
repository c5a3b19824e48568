"""From a checkpoint to a version in the model repository.

Owns the order of the steps: read, build, measure, put in place. Must not know how any step works.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType

import onnx

from vecserve_server.errors import AlreadyExists, InvalidArgument, ModelError, StorageError
from vecserve_server.export.calibration import channel_peaks
from vecserve_server.export.card import EXPORTER_VERSION, ModelCard, digests_of, write_card
from vecserve_server.export.checkpoint import Checkpoint, read_checkpoint
from vecserve_server.export.config_template import render_config
from vecserve_server.export.encoder_graph import encoder_graph, family_for
from vecserve_server.export.linear import Int8Linear, Linear, fp32_linear
from vecserve_server.export.parity import check_parity, measure_parity
from vecserve_server.export.sample_run import CALIBRATION_TEXTS, PARITY_TEXTS, tokenise
from vecserve_server.export.staging import publish, staged_folder

MODEL_FILE_BY_PRECISION: Mapping[str, str] = MappingProxyType(
    {"fp32": "model.onnx", "int8": "model.int8.onnx"}
)
VERSION = "1"

_CONFIG_FILE = "config.pbtxt"
_NAME = re.compile(r"(?!\.)[A-Za-z0-9._-]{1,128}")


def import_model(
    *,
    source: Path,
    repository: Path,
    name: str,
    precisions: tuple[str, ...] = ("fp32", "int8"),
    max_length: int | None = None,
    expected_sha256: Mapping[str, str] | None = None,
    origin: str | None = None,
    replace: bool = False,
    progress: Callable[[str, float], None] = lambda _step, _fraction: None,
) -> ModelCard:
    """Build `<repository>/<name>/1/` from a sentence-transformers folder.

    Args:
        source: the checkpoint's folder.
        repository: the model repository; made where it does not exist.
        name: the model's name, 1 to 128 of `A-Z a-z 0-9 . _ -`, not starting with a dot.
        precisions: what to build; fp32 is always built, as the reference.
        max_length: longest text in tokens; the checkpoint's own limit when None.
        expected_sha256: hex digests that files of the checkpoint must have.
        origin: what the card calls the source; the folder's name when None.
        replace: whether a version that is there gives way.
        progress: told each step and the fraction done before it, in [0, 1].

    Raises `ModelError` for a checkpoint that is damaged, unsupported or too far off in int8,
    `AlreadyExists` without `replace`, `StorageError` for a failed disk. A failed import changes
    nothing in the repository.
    """
    _check_request(repository, name, precisions, replace=replace)
    progress("read", 0.0)
    try:
        checkpoint = read_checkpoint(source, expected_sha256=expected_sha256)
        with staged_folder(repository) as staged:
            card = _build(
                checkpoint=checkpoint,
                folder=staged / name,
                precisions=tuple(dict.fromkeys(("fp32", *precisions))),
                max_tokens=_max_tokens(checkpoint, max_length),
                origin=origin or source.resolve().name,
                progress=progress,
            )
            _put_in_place(staged / name, repository / name)
    except OSError as error:
        raise StorageError(f"importing {name}: {error.strerror or error}") from error
    progress("done", 1.0)
    return card


def _check_request(
    repository: Path, name: str, precisions: tuple[str, ...], *, replace: bool
) -> None:
    unknown = set(precisions) - MODEL_FILE_BY_PRECISION.keys()
    if unknown:
        supported = ", ".join(MODEL_FILE_BY_PRECISION)
        raise InvalidArgument("precisions", f"{sorted(unknown)} are not among {supported}")
    if not _NAME.fullmatch(name):
        raise InvalidArgument("name", "must be 1 to 128 of A-Z a-z 0-9 . _ -, no leading dot")
    if (repository / name / VERSION).exists() and not replace:
        raise AlreadyExists(f"model {name} version {VERSION} is in the repository already")


def _build(
    *,
    checkpoint: Checkpoint,
    folder: Path,
    precisions: tuple[str, ...],
    max_tokens: int,
    origin: str,
    progress: Callable[[str, float], None],
) -> ModelCard:
    """Write `config.pbtxt` and the version's files into the folder; return the card."""
    version = folder / VERSION
    version.mkdir(parents=True)
    (version / "tokenizer.json").write_bytes(checkpoint.tokenizer_json)
    files = {precision: version / MODEL_FILE_BY_PRECISION[precision] for precision in precisions}
    for i, (precision, file) in enumerate(files.items()):
        progress(f"build {precision}", 0.1 + 0.5 * i / len(precisions))
        _write_graph(checkpoint, _linear(checkpoint, precision, max_tokens), file)
    progress("measure", 0.6)
    sequences = tokenise(checkpoint.tokenizer_json, PARITY_TEXTS, max_tokens)
    parity = measure_parity(files, sequences)
    check_parity(parity)
    progress("hash", 0.9)
    architecture = checkpoint.config.architecture()
    card = ModelCard(
        name=folder.name,
        version=VERSION,
        exporter_version=EXPORTER_VERSION,
        source=origin,
        source_sha256=dict(checkpoint.sha256_by_file),
        licence=checkpoint.licence,
        architecture=architecture,
        pooling=checkpoint.pooling,
        dim=family_for(architecture).size(checkpoint.config).hidden,
        max_tokens=max_tokens,
        parity=parity,
        files=digests_of(version),
    )
    write_card(card, version)
    (folder / _CONFIG_FILE).write_text(_config(card, checkpoint), encoding="utf-8")
    return card


def _config(card: ModelCard, checkpoint: Checkpoint) -> str:
    return render_config(
        name=card.name,
        dim=card.dim,
        max_tokens=card.max_tokens,
        precision="int8" if "int8" in card.parity else "fp32",
        prompts=checkpoint.prompts,
        default_prompt=checkpoint.default_prompt,
    )


def _linear(checkpoint: Checkpoint, precision: str, max_tokens: int) -> Linear:
    if precision == "fp32":
        return fp32_linear
    sequences = tokenise(checkpoint.tokenizer_json, CALIBRATION_TEXTS, max_tokens)
    peaks = channel_peaks(config=checkpoint.config, weights=checkpoint.weights, sequences=sequences)
    return Int8Linear(peaks)


def _write_graph(checkpoint: Checkpoint, linear: Linear, file: Path) -> None:
    model = encoder_graph(
        config=checkpoint.config,
        weights=checkpoint.weights,
        pooling=checkpoint.pooling,
        linear=linear,
    )
    onnx.save(model, file)


def _max_tokens(checkpoint: Checkpoint, max_length: int | None) -> int:
    family = family_for(checkpoint.config.architecture())
    longest = family.size(checkpoint.config).max_tokens
    wanted = max_length or checkpoint.max_tokens or longest
    if wanted > longest:
        raise ModelError(f"max_length is {wanted}, the checkpoint has positions for {longest}")
    return wanted


def _put_in_place(staged: Path, target: Path) -> None:
    """Publish a whole new model, or only the version of one that the operator has configured."""
    if not target.exists():
        publish(staged, target)
        return
    publish(staged / VERSION, target / VERSION)
    if not (target / _CONFIG_FILE).exists():
        publish(staged / _CONFIG_FILE, target / _CONFIG_FILE)
