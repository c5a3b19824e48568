"""What the configuration of a text encoder means.

Owns which fields and parameters are supported; any other is refused, never ignored. Must not know
engines, other than by name. `dynamic_batching` may stand there, empty: batches form as instances
become free.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from vecserve.inference import model_config_pb2
from vecserve_server.domain.shapes import MAX_SHAPES, count_shapes
from vecserve_server.model_files.config_file import MAX_INSTANCES, refused

BACKEND = "vecserve"

_FIELDS = frozenset(
    {
        "name",
        "backend",
        "version_policy",
        "max_batch_size",
        "input",
        "output",
        "dynamic_batching",
        "response_cache",
        "instance_group",
        "optimization",
        "parameters",
        "metric_tags",
    }
)
_TENSORS: Mapping[str, tuple[str, bool]] = MappingProxyType(
    {
        "text": ("TYPE_STRING", False),
        "input_ids": ("TYPE_INT64", True),
        "attention_mask": ("TYPE_INT64", True),
    }
)
"""Type of each input, and whether it is optional."""

_TENSOR_FIELDS = frozenset({"name", "data_type", "dims", "optional"})
_COUNTS: Mapping[str, tuple[int, int | None]] = MappingProxyType(
    {
        "max_tokens": (1, None),
        "row_tokens": (1, 128),
        "run_tokens": (1, 256),
        "intra_op_thread_count": (1, 1),
        "fixed_shapes": (0, 16),
    }
)
"""Least value and default of each whole-number parameter; None where it must be given."""

_MOST = 1_000_000
_PROMPT = "prompt."
_PRECISIONS = ("int8", "fp32", "fp16")
PACKED, PADDED = "packed", "padded"
_LAYOUTS = (PACKED, PADDED)
_FLAGS = ("true", "false")
RUN_ALONE = "run_alone"
_SIDES = ("right", "left")
_CHOICES = (
    "precision",
    "engine",
    "layout",
    RUN_ALONE,
    "normalise",
    "truncation_side",
    "include_prompt",
    "default_prompt",
)
AUTO, ONNXRUNTIME = "auto", "onnxruntime"
CPU, GPU = "cpu", "gpu"
_DEVICES: Mapping[str, str] = MappingProxyType({"KIND_AUTO": CPU, "KIND_CPU": CPU, "KIND_GPU": GPU})


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineNames:
    """The engines that configurations may choose."""

    parameters: tuple[str, ...]
    """Named in the parameter `engine`."""
    cpu_accelerators: tuple[str, ...]
    """Named in Triton's `cpu_execution_accelerator`."""
    gpu_accelerators: tuple[str, ...]
    devices: frozenset[str]
    """On which any of them runs text encoders."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EncoderConfig:
    """How a text encoder runs."""

    name: str
    dim: int
    max_batch_size: int
    """Texts in one request."""
    max_tokens: int
    """Longest text, special tokens included."""
    row_tokens: int
    """Texts share rows of at most this many tokens."""
    run_tokens: int
    """Tokens in one run."""
    precision: str
    engine: str
    """An engine's name, or `auto`: the one that runs the model fastest on this machine."""
    device: str = CPU
    layout: str
    """`packed`, or `padded` for a graph with an attention mask."""
    run_alone: bool | None
    """Whether each text of a padded model runs alone; None: where others change its vector."""
    normalise: bool
    """Whether vectors get length 1 where a request does not say."""
    instance_count: int
    """Instances; 0 for one per physical core."""
    intra_op_thread_count: int
    fixed_shapes: int
    """Most shapes of runs that the engine prepares graphs of their own for."""
    truncation_side: str
    """The end that a text loses that is too long, `right` or `left`, where a request names none."""
    include_prompt: bool
    """Whether the tokens of a prompt count in the pooling."""
    prompts: Mapping[str, str]
    """Text to put before a text, by prompt name."""
    default_prompt: str | None


def encoder_config(proto: model_config_pb2.ModelConfig, engines: EngineNames) -> EncoderConfig:
    """Check the message and return what it means; raises `ModelError` naming the field.

    `engines` are those that it may choose.
    """
    for field, _ in proto.ListFields():
        if field.name not in _FIELDS:
            raise refused(proto, field.name, "is not supported")
    if proto.backend != BACKEND:
        raise refused(proto, "backend", f'is "{proto.backend}", must be "{BACKEND}"')
    for field, _ in proto.dynamic_batching.ListFields():
        raise refused(proto, f"dynamic_batching.{field.name}", "is not supported")
    if proto.max_batch_size < 1:
        raise refused(proto, "max_batch_size", "must be at least 1")
    _check_inputs(proto)
    parameters = _parameters(proto)
    counts = {key: _count(proto, parameters, key) for key in _COUNTS}
    layout = _one_of(proto, parameters, "layout", _LAYOUTS)
    _check_shapes(proto, counts, shared=layout == PACKED)
    prompts = {
        key.removeprefix(_PROMPT): text
        for key, text in parameters.items()
        if key.startswith(_PROMPT)
    }
    return EncoderConfig(
        name=proto.name,
        dim=_dim(proto),
        max_batch_size=proto.max_batch_size,
        precision=_one_of(proto, parameters, "precision", _PRECISIONS),
        engine=_engine(proto, parameters, engines),
        device=_device(proto, engines),
        layout=layout,
        run_alone=_run_alone(proto, parameters),
        normalise=_one_of(proto, parameters, "normalise", _FLAGS) == "true",
        truncation_side=_one_of(proto, parameters, "truncation_side", _SIDES),
        include_prompt=_one_of(proto, parameters, "include_prompt", _FLAGS) == "true",
        instance_count=_instance_count(proto),
        prompts=prompts,
        default_prompt=_default_prompt(proto, parameters, prompts),
        **counts,
    )


def _check_inputs(proto: model_config_pb2.ModelConfig) -> None:
    names = [tensor.name for tensor in proto.input]
    if "text" not in names or len(set(names)) != len(names):
        raise refused(proto, "input", 'must hold "text" and no name twice')
    for tensor in proto.input:
        where = f'input "{tensor.name}"'
        _check_tensor_fields(proto, where, tensor)
        if tensor.name not in _TENSORS:
            known = ", ".join(_TENSORS)
            raise refused(proto, where, f"is not supported (supported: {known})")
        kind, optional = _TENSORS[tensor.name]
        dims = [-1] if optional else [1]
        if model_config_pb2.DataType.Name(tensor.data_type) != kind or list(tensor.dims) != dims:
            raise refused(proto, where, f"must be {kind} with dims {dims}")
        if tensor.optional != optional:
            raise refused(proto, where, f"must have optional: {str(optional).lower()}")


def _dim(proto: model_config_pb2.ModelConfig) -> int:
    if [tensor.name for tensor in proto.output] != ["embedding"]:
        raise refused(proto, "output", 'must be "embedding" alone')
    tensor = proto.output[0]
    _check_tensor_fields(proto, 'output "embedding"', tensor)
    fits = len(tensor.dims) == 1 and tensor.dims[0] > 0
    if tensor.data_type != model_config_pb2.TYPE_FP32 or not fits:
        raise refused(proto, 'output "embedding"', "must be TYPE_FP32 with one positive dim")
    return int(tensor.dims[0])


def _check_tensor_fields(
    proto: model_config_pb2.ModelConfig,
    where: str,
    tensor: model_config_pb2.ModelInput | model_config_pb2.ModelOutput,
) -> None:
    for field, _ in tensor.ListFields():
        if field.name not in _TENSOR_FIELDS:
            raise refused(proto, f"{where} {field.name}", "is not supported")


def _instance_count(proto: model_config_pb2.ModelConfig) -> int:
    if len(proto.instance_group) > 1:
        raise refused(proto, "instance_group", "must be one group")
    for group in proto.instance_group:
        for field, _ in group.ListFields():
            if field.name not in ("name", "kind", "count"):
                raise refused(proto, f"instance_group {field.name}", "is not supported")
        if not 0 <= group.count <= MAX_INSTANCES:
            raise refused(proto, "instance_group count", f"must be 0 to {MAX_INSTANCES}")
        return int(group.count)
    return 0


def _device(proto: model_config_pb2.ModelConfig, engines: EngineNames) -> str:
    for group in proto.instance_group:
        kind = model_config_pb2.ModelInstanceGroup.Kind.Name(group.kind)
        device = _DEVICES.get(kind)
        if device not in engines.devices:
            raise refused(proto, "instance_group kind", f"{kind} is not supported: KIND_CPU is")
        return device
    return CPU


def _parameters(proto: model_config_pb2.ModelConfig) -> dict[str, str]:
    known = {*_COUNTS, *_CHOICES}
    for key in proto.parameters:
        if key not in known and not key.startswith(_PROMPT):
            names = ", ".join([*sorted(known), "prompt.<name>"])
            raise refused(proto, f'parameter "{key}"', f"is not supported (supported: {names})")
    return {key: value.string_value for key, value in proto.parameters.items()}


def _count(proto: model_config_pb2.ModelConfig, parameters: Mapping[str, str], key: str) -> int:
    least, default = _COUNTS[key]
    if default is None and key not in parameters:
        raise refused(proto, f'parameter "{key}"', "is missing")
    text = parameters.get(key, str(default))
    if not text.isascii() or not text.isdecimal() or not least <= int(text) <= _MOST:
        raise refused(proto, f'parameter "{key}"', f'must be {least} to {_MOST}, found "{text}"')
    return int(text)


def _check_shapes(
    proto: model_config_pb2.ModelConfig, counts: Mapping[str, int], *, shared: bool
) -> None:
    """Refuse sizes with which runs would have more shapes than can be planned with."""
    run_tokens, max_tokens = counts["run_tokens"], counts["max_tokens"]
    shapes = count_shapes(run_tokens=run_tokens, max_tokens=max_tokens, shared=shared)
    if shapes > MAX_SHAPES:
        problem = (
            f'"{run_tokens}" with max_tokens "{max_tokens}" makes {shapes} shapes of runs, '
            f"the limit is {MAX_SHAPES}: lower run_tokens"
        )
        raise refused(proto, 'parameter "run_tokens"', problem)


def _one_of(
    proto: model_config_pb2.ModelConfig,
    parameters: Mapping[str, str],
    key: str,
    choices: tuple[str, ...],
) -> str:
    text = parameters.get(key, choices[0])
    if text not in choices:
        allowed = ", ".join(choices)
        raise refused(proto, f'parameter "{key}"', f'must be one of {allowed}, found "{text}"')
    return text


def _run_alone(proto: model_config_pb2.ModelConfig, parameters: Mapping[str, str]) -> bool | None:
    if RUN_ALONE not in parameters:
        return None
    if _one_of(proto, parameters, "layout", _LAYOUTS) == PACKED:
        raise refused(proto, f'parameter "{RUN_ALONE}"', 'is for the layout "padded"')
    return _one_of(proto, parameters, RUN_ALONE, _FLAGS) == "true"


def _engine(
    proto: model_config_pb2.ModelConfig, parameters: Mapping[str, str], engines: EngineNames
) -> str:
    """Read Triton's accelerators, or the parameter `engine`; never both."""
    for field, _ in proto.optimization.ListFields():
        if field.name != "execution_accelerators":
            raise refused(proto, f"optimization.{field.name}", "is not supported")
    accelerators = proto.optimization.execution_accelerators
    if accelerators.gpu_execution_accelerator and not engines.gpu_accelerators:
        raise refused(proto, "gpu_execution_accelerator", "is not supported")
    known = {"cpu": engines.cpu_accelerators, "gpu": engines.gpu_accelerators}
    named = [
        *(("cpu", accelerator) for accelerator in accelerators.cpu_execution_accelerator),
        *(("gpu", accelerator) for accelerator in accelerators.gpu_execution_accelerator),
    ]
    if named and "engine" in parameters:
        raise refused(proto, 'parameter "engine"', "and execution_accelerators exclude each other")
    for kind, accelerator in named:
        where = f'{kind}_execution_accelerator "{accelerator.name}"'
        if accelerator.name not in known[kind] or len(named) > 1:
            listed = _quoted(known[kind])
            raise refused(proto, where, f"is not supported: {listed} alone is")
        if accelerator.parameters:
            raise refused(proto, where, "takes no parameters")
        return str(accelerator.name)
    choice = parameters.get("engine", ONNXRUNTIME)
    choices = (AUTO, *engines.parameters)
    if choice not in choices:
        problem = f'must be {_quoted(choices)}, found "{choice}"'
        raise refused(proto, 'parameter "engine"', problem)
    return choice


def _quoted(names: Iterable[str]) -> str:
    return " or ".join(f'"{name}"' for name in names)


def _default_prompt(
    proto: model_config_pb2.ModelConfig,
    parameters: Mapping[str, str],
    prompts: Mapping[str, str],
) -> str | None:
    name = parameters.get("default_prompt")
    if name is not None and name not in prompts:
        raise refused(proto, 'parameter "default_prompt"', f'names no prompt: "{name}"')
    return name
