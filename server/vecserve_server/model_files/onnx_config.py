"""Bring a `ModelConfig` into the form that the rest reads.

Owns Triton's defaults and the checks that need no graph. Must not know sessions.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path, PurePath

from vecserve.inference import model_config_pb2
from vecserve_server.errors import ModelError
from vecserve_server.model_files.config_file import refused
from vecserve_server.model_files.datatypes import from_proto, proto_name
from vecserve_server.model_files.onnx_fields import check_fields
from vecserve_server.model_files.tensor_spec import TensorProto, check_reshape

PLATFORM, BACKEND = "onnxruntime_onnx", "onnxruntime"
MODEL_FILE = "model.onnx"
_RUNTIMES = ("", "libtriton_onnxruntime.so")


def is_onnx_model(config: model_config_pb2.ModelConfig) -> bool:
    """Tell whether the configuration asks for ONNX Runtime, or names nothing that runs it."""
    return config.backend == BACKEND or (not config.backend and config.platform in ("", PLATFORM))


def normalised(config: model_config_pb2.ModelConfig) -> model_config_pb2.ModelConfig:
    """Return a copy with Triton's defaults.

    Tensors may still be missing: `completion` knows the graph. Raises `ModelError` naming the
    field that is wrong or not supported.
    """
    made = model_config_pb2.ModelConfig()
    made.CopyFrom(config)
    check_fields(made)
    _fill_backend(made)
    if made.version_policy.WhichOneof("policy_choice") is None:
        made.version_policy.latest.num_versions = 1
    if made.max_batch_size < 0:
        raise refused(made, "max_batch_size", "must not be negative")
    _check_tensors(made)
    return made


def fill_batching(config: model_config_pb2.ModelConfig) -> None:
    """Prefer full batches where `dynamic_batching` prefers none, as Triton does."""
    batching = config.HasField("dynamic_batching")
    if batching and config.max_batch_size and not config.dynamic_batching.preferred_batch_size:
        config.dynamic_batching.preferred_batch_size.append(config.max_batch_size)


def model_file(version_folder: Path, config: model_config_pb2.ModelConfig) -> Path:
    """Return the file to open: a folder in its place holds `model.onnx` and its tensors."""
    path = version_folder / str(config.default_model_filename)
    if path.is_dir():
        path /= MODEL_FILE
    if not path.is_file():
        raise ModelError(f"{path} is missing")
    return path


def is_plain_name(name: str) -> bool:
    """Tell whether a name from a configuration stays within the folder that it is looked for in."""
    return PurePath(name).name == name and "\0" not in name


def _fill_backend(config: model_config_pb2.ModelConfig) -> None:
    if config.platform not in ("", PLATFORM):
        raise refused(config, "platform", f'is "{config.platform}", must be "{PLATFORM}"')
    if config.backend not in ("", BACKEND):
        raise refused(config, "backend", f'is "{config.backend}", must be "{BACKEND}"')
    if config.runtime not in _RUNTIMES:
        raise refused(config, "runtime", f'"{config.runtime}" is not supported')
    config.platform, config.backend = PLATFORM, BACKEND
    config.default_model_filename = config.default_model_filename or MODEL_FILE
    if not is_plain_name(config.default_model_filename):
        problem = f'"{config.default_model_filename}" must be a name within the version\'s folder'
        raise refused(config, "default_model_filename", problem)


def _check_tensors(config: model_config_pb2.ModelConfig) -> None:
    sides: tuple[tuple[str, Sequence[TensorProto]], ...] = (
        ("input", config.input),
        ("output", config.output),
    )
    for side, tensors in sides:
        counts = Counter(tensor.name for tensor in tensors)
        for index, tensor in enumerate(tensors):
            if not tensor.name:
                raise refused(config, f"{side}[{index}].name", "is empty")
            if counts[tensor.name] > 1:
                raise refused(config, f'{side} "{tensor.name}"', "comes twice")
            _check_tensor(config, f'{side} "{tensor.name}"', tensor)


def _check_tensor(config: model_config_pb2.ModelConfig, where: str, tensor: TensorProto) -> None:
    if from_proto(tensor.data_type) is None:
        problem = f"data_type {proto_name(tensor.data_type)} is not supported"
        raise refused(config, where, problem)
    if not tensor.dims:
        raise refused(config, where, "has no dims")
    if any(size < -1 or size == 0 for size in tensor.dims):
        raise refused(config, where, f"dims {list(tensor.dims)} must be positive, or -1 for any")
    if tensor.HasField("reshape"):
        if not tensor.reshape.shape and not config.max_batch_size:
            problem = "is empty: scalars are for models with batches (max_batch_size)"
            raise refused(config, f"{where} reshape", problem)
        mismatch = check_reshape(tuple(tensor.dims), tuple(tensor.reshape.shape))
        if mismatch:
            raise refused(config, f"{where} reshape", mismatch)
    file = getattr(tensor, "label_filename", "")
    if file and not is_plain_name(file):
        raise refused(config, f"{where} label_filename", "must be a name within the model's folder")
