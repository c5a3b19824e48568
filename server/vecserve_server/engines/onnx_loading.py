"""From an ONNX model's folder to sessions that are warm.

Owns the order of loading: configuration, sessions, agreement with the graph, warm-up. Must not
know any engine but that ONNX Runtime reads every ONNX file, nor who calls the sessions. Blocks; for
a thread of its own.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

from numpy.typing import NDArray

from vecserve.inference import model_config_pb2
from vecserve_server.engines.engine import Session
from vecserve_server.engines.instances import Placement, placements, with_instance_groups
from vecserve_server.engines.onnx_settings import OnnxSettings, onnx_settings
from vecserve_server.engines.registry import Engines
from vecserve_server.engines.time_limit import Stop, TimeLimit
from vecserve_server.engines.warmup import read_warm_ups
from vecserve_server.errors import ModelError, ModelLimit, VecserveError
from vecserve_server.model_files.completion import completed
from vecserve_server.model_files.config_file import refused
from vecserve_server.model_files.encoder_config import GPU, ONNXRUNTIME
from vecserve_server.model_files.onnx_config import model_file, normalised
from vecserve_server.model_files.tensor_spec import TensorSpec
from vecserve_server.observability.logging import get_logger, log_event

Run: TypeAlias = Callable[[Mapping[str, NDArray[Any]], Sequence[str], Stop], Sequence[NDArray[Any]]]


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadLimits:
    """What a model may take."""

    max_threads: int = 1024
    """Of one session, for one operator or for several."""
    max_warm_up_s: float = 120.0


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedOnnx:
    """A version of a model, ready to run."""

    config: model_config_pb2.ModelConfig
    """As it is in force."""
    inputs: Mapping[str, TensorSpec]
    outputs: Mapping[str, TensorSpec]
    labels: Mapping[str, Sequence[str]]
    """Names of the classes of each output that has them."""
    digest: str
    """Of the files and the configuration."""
    runs: Sequence[Run]
    """One per instance; instances on the same device share a session."""
    uses_cpu: bool
    """Whether any instance computes on the CPU."""


def load_version(
    folder: Path,
    version: str,
    proto: model_config_pb2.ModelConfig,
    *,
    cpu_cores: int,
    limits: LoadLimits,
    engines: Engines,
) -> LoadedOnnx:
    """Load and warm up; `folder` is the model's, `proto` has its name at least.

    `cpu_cores` is how many instances there are on the CPU where the configuration does not say.
    The session of a configured engine is opened beside that of ONNX Runtime, which describes the
    graph. Raises `ModelError` naming the file or the field at fault, and `ModelLimit` where warming
    up takes too long.
    """
    cuda = GPU in engines[ONNXRUNTIME].devices()
    config = with_instance_groups(normalised(proto), cuda=cuda, cpu_instances=cpu_cores)
    settings = onnx_settings(
        config,
        engines.onnx_names,
        intra_op_threads=cpu_cores,
        max_threads=limits.max_threads,
    )
    for key, wanted in settings.lowered.items():
        log_event(
            get_logger("models"),
            logging.WARNING,
            "threads_lowered",
            model=config.name,
            parameter=key,
            wanted=wanted,
            limit=limits.max_threads,
        )
    places = placements(config)
    file = model_file(folder / version, config)
    sessions = [_open(file, settings, place, engines) for place in places]
    config = completed(config, sessions[0].graph)
    loaded = LoadedOnnx(
        config=config,
        inputs=_specs(config.input, batched=config.max_batch_size > 0),
        outputs=_specs(config.output, batched=config.max_batch_size > 0),
        labels=_labels(config, folder),
        digest=_digest(folder / version, config),
        runs=[
            session.run
            for session, place in zip(sessions, places, strict=True)
            for _ in range(place.count)
        ],
        uses_cpu=any(place.device_id is None for place in places),
    )
    with TimeLimit(limits.max_warm_up_s) as limit:
        for session in sessions:
            _warm_up(session, loaded, folder, limit, limits.max_warm_up_s)
    return loaded


def _specs(
    tensors: Sequence[model_config_pb2.ModelInput | model_config_pb2.ModelOutput], *, batched: bool
) -> dict[str, TensorSpec]:
    return {tensor.name: TensorSpec.read(tensor, batched=batched) for tensor in tensors}


def _open(file: Path, settings: OnnxSettings, place: Placement, engines: Engines) -> Session:
    wanted = replace(settings.session, runs=place.count, device_id=place.device_id)
    session = engines[ONNXRUNTIME].open(file, wanted)
    name = settings.cpu_engine if place.device_id is None else settings.gpu_engine
    if name == ONNXRUNTIME:
        return session
    described = session.graph
    session.close()
    return engines[name].open(file, replace(wanted, described=described))


def _warm_up(
    session: Session, loaded: LoadedOnnx, folder: Path, limit: TimeLimit, limit_s: float
) -> None:
    for sample in read_warm_ups(loaded.config, folder, loaded.inputs):
        where = f'model_warmup "{sample.name}"'
        try:
            for _ in range(sample.count):
                session.run(sample.feeds, list(loaded.outputs), limit)
        except VecserveError as error:
            if not limit.is_over:
                raise refused(loaded.config, where, str(error)) from error
        if limit.is_over:
            problem = f"took longer than models.max_warm_up_s = {limit_s:g}"
            raise ModelLimit(str(refused(loaded.config, where, problem)), bound="warm_up_time")


def _labels(config: model_config_pb2.ModelConfig, folder: Path) -> dict[str, Sequence[str]]:
    labels: dict[str, Sequence[str]] = {}
    for output in config.output:
        if output.label_filename:
            path = folder / output.label_filename
            try:
                labels[output.name] = path.read_text("utf-8").splitlines()
            except (OSError, UnicodeDecodeError) as error:
                raise ModelError(f"{path}: not readable as labels ({error})") from error
    return labels


def _digest(version_folder: Path, config: model_config_pb2.ModelConfig) -> str:
    digest = hashlib.sha256(config.SerializeToString(deterministic=True))
    for path in sorted(path for path in version_folder.rglob("*") if path.is_file()):
        with path.open("rb") as file:
            content = hashlib.file_digest(file, "sha256").digest()
        digest.update(str(path.relative_to(version_folder)).encode() + b"\0" + content)
    return digest.hexdigest()
