"""From a checkpoint to a version in the model repository.

Owns the order of the steps: read, build, measure, put in place. Must not know how any step works.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeAlias

from vecserve_server.domain.names import MODEL_CONFIG_FILE
from vecserve_server.encoding.batch_dependence import LEAST_LIKENESS
from vecserve_server.engines.openvino.runtime import openvino_is_installed
from vecserve_server.errors import AlreadyExists, InvalidArgument, ModelError, StorageError
from vecserve_server.importing.config_template import RequestDefaults, render_config
from vecserve_server.importing.families.families import is_supported
from vecserve_server.importing.families.family import ModelConfigJson
from vecserve_server.importing.quantise import openvino_build
from vecserve_server.importing.quantise.calibration import (
    SHIPPED_TEXTS,
    Calibration,
    CalibrationSource,
)
from vecserve_server.importing.quantise.packed_build import MODEL_FILE_BY_PRECISION, packed_build
from vecserve_server.importing.quantise.parity import (
    check_parity,
    embed_with,
    long_parity_sequences,
    measure,
)
from vecserve_server.importing.quantise.sample_run import PARITY_TEXTS, tokenise
from vecserve_server.importing.ready_made import find_onnx, ready_made
from vecserve_server.importing.sources.checkpoint import Checkpoint, read_checkpoint
from vecserve_server.importing.sources.json_file import read_object
from vecserve_server.importing.sources.modules import encoder_folder
from vecserve_server.importing.sources.tensors import has_weights
from vecserve_server.importing.staging import publish, staged_folder, sweep
from vecserve_server.model_files.card import EXPORTER_VERSION, ModelCard, digests_of, write_card
from vecserve_server.model_files.encoder_config import PADDED
from vecserve_server.model_files.layout import TOKENIZER_FILE, check_model_name
from vecserve_server.observability.memory import available_memory_bytes

Progress: TypeAlias = Callable[[str, float], None]
"""Told each step and the fraction done before it, in [0, 1]."""

VERSION = "1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """Where a checkpoint comes from, as the card tells it."""

    source: str
    revision: str | None = None


class Build(Protocol):
    """An encoder, ready to be written in one precision or several."""

    @property
    def architecture(self) -> str:
        """What the card calls the kind of model."""
        ...

    @property
    def layout(self) -> str:
        """`packed` or `padded`."""
        ...

    @property
    def dim(self) -> int:
        """The embedding's width."""
        ...

    @property
    def max_tokens(self) -> int:
        """Longest text, special tokens included."""
        ...

    @property
    def clamped(self) -> str | None:
        """Which limit of the checkpoint's own is not kept, in words."""
        ...

    @property
    def weight_paths(self) -> tuple[Path, ...]:
        """The files of the checkpoint that hold its weights."""
        ...

    @property
    def default_precisions(self) -> tuple[str, ...]:
        """What is built where the user names nothing."""
        ...

    def calibration(self) -> Calibration:
        """Learn what int8 is built from; raises `ModelError` where it cannot be built."""
        ...

    def write(self, precision: str, file: Path, calibration: Calibration | None = None) -> None:
        """Write the graph of one precision, int8 with its calibration.

        Raises `ModelError` for what cannot be built.
        """
        ...


def import_model(  # noqa: PLR0913 - a use case with its options, all but three with a default
    *,
    source: Path,
    repository: Path,
    name: str,
    precisions: tuple[str, ...] | None = None,
    max_length: int | None = None,
    expected_sha256: Mapping[str, str] | None = None,
    origin: Origin | None = None,
    replace: bool = False,
    memory_limit_bytes: int | None = None,
    calibration: CalibrationSource = SHIPPED_TEXTS,
    progress: Progress = lambda _step, _fraction: None,
) -> ModelCard:
    """Build `<repository>/<name>/1/` from a checkpoint's folder.

    Args:
        source: the folder: a sentence-transformers or plain transformers checkpoint, or one with
            an ONNX file of the encoder.
        repository: the model repository; made where it does not exist.
        name: the model's name, 1 to 128 of `A-Z a-z 0-9 . _ -`, not starting with a dot.
        precisions: what to build; fp32 is always built, as the reference. The last is served.
        max_length: longest text in tokens; the checkpoint's own limit when None.
        expected_sha256: hex digests that files of the checkpoint must have.
        origin: what the card calls the source; the folder's name when None.
        replace: whether a version that is there gives way.
        memory_limit_bytes: what the import may take; the machine's free memory when None.
        calibration: what int8 learns the ranges of activations from.
        progress: told each step and the fraction done before it, in [0, 1].

    Raises `ModelError` for a checkpoint that is damaged, unsupported, too large or too far off in
    int8, `AlreadyExists` without `replace`, `StorageError` for a failed disk. A failed import
    changes nothing in the repository.
    """
    _check_request(name, precisions or ())
    progress("read", 0.0)
    try:
        sweep(repository)
        sweep(repository / name)
        _check_is_free(repository, name, replace=replace)
        checkpoint = read_checkpoint(source, expected_sha256=expected_sha256)
        memory_bytes = memory_limit_bytes or available_memory_bytes()
        build = _open(checkpoint, max_length, memory_bytes, calibration)
        with staged_folder(repository) as staged:
            card = _build(
                checkpoint=checkpoint,
                build=build,
                folder=staged / name,
                precisions=tuple(
                    dict.fromkeys(("fp32", *(precisions or build.default_precisions)))
                ),
                origin=origin or Origin(source=source.resolve().name),
                calibration_name=calibration.name,
                progress=progress,
            )
            _put_in_place(staged / name, repository / name)
    except OSError as error:
        raise StorageError(f"importing {name}: {error.strerror or error}") from error
    progress("done", 1.0)
    return card


def is_buildable(folder: Path) -> bool:
    """Return whether the encoder of a folder can be built from its weights, by its settings."""
    try:
        return is_supported(ModelConfigJson(read_object(encoder_folder(folder) / "config.json")))
    except ModelError:
        return True  # the import will say what is wrong


def _check_request(name: str, precisions: tuple[str, ...]) -> None:
    unknown = set(precisions) - MODEL_FILE_BY_PRECISION.keys()
    if unknown:
        supported = ", ".join(MODEL_FILE_BY_PRECISION)
        raise InvalidArgument("precisions", f"{sorted(unknown)} are not among {supported}")
    check_model_name("name", name)


def _check_is_free(repository: Path, name: str, *, replace: bool) -> None:
    if (repository / name / VERSION).exists() and not replace:
        raise AlreadyExists(f"model {name} version {VERSION} is in the repository already")


def _open(
    checkpoint: Checkpoint,
    max_length: int | None,
    memory_limit_bytes: int | None,
    calibration: CalibrationSource,
) -> Build:
    """Choose how to build: from the weights where that can be done, else from an ONNX file."""
    file = find_onnx(checkpoint.modules.encoder) or find_onnx(checkpoint.folder)
    buildable = has_weights(checkpoint.modules.encoder) and is_supported(checkpoint.config)
    if file is None or buildable:
        return packed_build(
            checkpoint,
            max_length=max_length,
            memory_limit_bytes=memory_limit_bytes,
            calibration=calibration,
        )
    return ready_made(
        file, checkpoint, max_length=max_length, memory_limit_bytes=memory_limit_bytes
    )


def _build(
    *,
    checkpoint: Checkpoint,
    build: Build,
    folder: Path,
    precisions: tuple[str, ...],
    origin: Origin,
    calibration_name: str,
    progress: Progress,
) -> ModelCard:
    """Write `config.pbtxt` and the version's files into the folder; return the card."""
    version = folder / VERSION
    version.mkdir(parents=True)
    (version / TOKENIZER_FILE).write_bytes(checkpoint.tokenizer_json)
    sequences = tokenise(checkpoint.tokenizer_json, PARITY_TEXTS, build.max_tokens)
    files = {precision: version / MODEL_FILE_BY_PRECISION[precision] for precision in precisions}
    calibration = None
    for i, (precision, file) in enumerate(files.items()):
        progress(f"build {precision}", 0.1 + 0.5 * i / len(precisions))
        if precision == "int8":
            calibration = build.calibration()
        build.write(precision, file, calibration if precision == "int8" else None)
    embedders = {precision: embed_with(file) for precision, file in files.items()}
    if calibration is not None and openvino_is_installed():
        progress(f"build {openvino_build.NAME}", 0.6)
        openvino_build.write_int8(files["fp32"], version, calibration)
        int8_file = version / openvino_build.MODEL_FILE
        embedders[openvino_build.NAME] = openvino_build.embed_with_openvino(int8_file)
    progress("measure", 0.7)
    long_sequences = long_parity_sequences(checkpoint.tokenizer_json, build.max_tokens)
    measured = measure(embedders, sequences, long_sequences)
    check_parity(measured.parity)
    alike = min(found.batch_cosine_min for found in measured.parity.values())
    progress("hash", 0.9)
    card = ModelCard(
        name=folder.name,
        version=VERSION,
        exporter_version=EXPORTER_VERSION,
        source=origin.source,
        revision=origin.revision,
        source_sha256=checkpoint.sha256_by_file(*build.weight_paths),
        licence=checkpoint.licence,
        architecture=build.architecture,
        layout=build.layout,
        pooling="+".join(checkpoint.modules.head.poolings),
        normalise=checkpoint.modules.head.normalise,
        include_prompt=checkpoint.modules.head.include_prompt,
        assumed="; ".join(filter(None, (checkpoint.modules.assumed, build.clamped))) or None,
        dim=build.dim,
        max_tokens=build.max_tokens,
        calibration=calibration_name if "int8" in precisions else None,
        run_alone=build.layout == PADDED and not alike >= LEAST_LIKENESS,
        parity=measured.parity,
        speed_texts_per_s=measured.speed_texts_per_s,
        files=digests_of(version),
    )
    write_card(card, version)
    config = _config(card, checkpoint, precision=precisions[-1])
    (folder / MODEL_CONFIG_FILE).write_text(config, encoding="utf-8")
    return card


def _config(card: ModelCard, checkpoint: Checkpoint, *, precision: str) -> str:
    return render_config(
        name=card.name,
        dim=card.dim,
        max_tokens=card.max_tokens,
        precision=precision,
        layout=card.layout,
        run_alone=card.run_alone,
        defaults=RequestDefaults(
            normalise=card.normalise,
            include_prompt=card.include_prompt,
            truncation_side=checkpoint.truncation_side,
            prompts=checkpoint.prompts,
            default_prompt=checkpoint.default_prompt,
        ),
    )


def _put_in_place(staged: Path, target: Path) -> None:
    """Publish a whole new model, or only the version of one that the operator has configured."""
    if not target.exists():
        publish(staged, target)
        return
    publish(staged / VERSION, target / VERSION)
    if not (target / MODEL_CONFIG_FILE).exists():
        publish(staged / MODEL_CONFIG_FILE, target / MODEL_CONFIG_FILE)
