"""How ONNX Runtime runs a model.

Owns the reading of `parameters` and `optimization`, in the names of Triton's ONNX Runtime backend.
Must not know ONNX Runtime.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from vecserve.inference import model_config_pb2
from vecserve_server.engines.engine import SessionSettings
from vecserve_server.engines.onnxruntime.providers import CUDA_PROVIDER
from vecserve_server.model_files.config_file import refused
from vecserve_server.model_files.encoder_config import ONNXRUNTIME, EngineNames

ARENA_SHRINKAGE = "memory.enable_memory_arena_shrinkage"
DEVICE_ALLOCATOR = "session.use_device_allocator_for_initializers"
_GRAPH_LEVELS: Mapping[int, str] = MappingProxyType(
    {-1: "ORT_ENABLE_BASIC", 0: "ORT_ENABLE_ALL", 1: "ORT_ENABLE_EXTENDED", 2: "ORT_DISABLE_ALL"}
)
INTRA_OP, INTER_OP = "intra_op_thread_count", "inter_op_thread_count"
_PARAMETERS = (
    INTRA_OP,
    INTER_OP,
    "execution_mode",
    "enable_mem_arena",
    "enable_mem_pattern",
    ARENA_SHRINKAGE,
    DEVICE_ALLOCATOR,
)
CUDA = "cuda"
"""What Triton calls the accelerator that is ONNX Runtime's own on a GPU."""
CUDA_PARAMETERS = (
    "cudnn_conv_algo_search",
    "gpu_mem_limit",
    "arena_extend_strategy",
    "do_copy_in_default_stream",
)
"""Parameters that Triton's backend hands to CUDA."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OnnxSettings:
    """How the sessions of an ONNX model are to be loaded."""

    session: SessionSettings
    cpu_engine: str = ONNXRUNTIME
    """What runs the model on the CPU."""
    gpu_engine: str = ONNXRUNTIME
    lowered: Mapping[str, str]
    """Parameters that ask for more threads than the limit, and get so many."""


def onnx_settings(
    config: model_config_pb2.ModelConfig,
    engines: EngineNames,
    *,
    intra_op_threads: int,
    max_threads: int = 1024,
) -> OnnxSettings:
    """Read the settings; `intra_op_threads` is the default, `engines` are those for ONNX models.

    Raises `ModelError` naming the field.

    More than `max_threads` are so many: they would compute the same, more slowly.

    Unlike Triton's backend, memory patterns are off unless asked for: one would be kept for every
    shape ever seen.
    """
    on_gpu = any(group.gpus for group in config.instance_group)
    cpu_engine, gpu_engine = _chosen_engines(config, engines, on_gpu=on_gpu)
    parameters = _parameters(config, (*_PARAMETERS, *(CUDA_PARAMETERS if on_gpu else ())))
    threads = {
        key: _threads(config, parameters, key, default)
        for key, default in ((INTRA_OP, intra_op_threads), (INTER_OP, 0))
    }
    return OnnxSettings(
        session=SessionSettings(
            graph_level=_graph_level(config),
            intra_op_threads=min(threads[INTRA_OP], max_threads),
            inter_op_threads=min(threads[INTER_OP], max_threads),
            total_threads=min(threads[INTRA_OP], max_threads),
            parallel=_flag(config, parameters, "execution_mode", default=False),
            memory_arena=_flag(config, parameters, "enable_mem_arena", default=True),
            memory_pattern=_flag(config, parameters, "enable_mem_pattern", default=False),
            session_entries=_entry(parameters, DEVICE_ALLOCATOR),
            run_entries=_entry(parameters, ARENA_SHRINKAGE),
            cuda_options={
                **{key: parameters[key] for key in CUDA_PARAMETERS if key in parameters},
                **_cuda_options(config),
            },
        ),
        cpu_engine=cpu_engine,
        gpu_engine=gpu_engine,
        lowered={key: parameters[key] for key in threads if threads[key] > max_threads},
    )


def _graph_level(config: model_config_pb2.ModelConfig) -> str:
    level = config.optimization.graph.level
    if level not in _GRAPH_LEVELS:
        problem = f"is {level}, must be one of {sorted(_GRAPH_LEVELS)}"
        raise refused(config, "optimization.graph.level", problem)
    return _GRAPH_LEVELS[level]


def _chosen_engines(
    config: model_config_pb2.ModelConfig, engines: EngineNames, *, on_gpu: bool
) -> tuple[str, str]:
    """Return what runs the model on the CPU, and what on a GPU; refuse what is not supported."""
    accelerators = config.optimization.execution_accelerators
    cpu_engine = gpu_engine = ONNXRUNTIME
    for accelerator in accelerators.cpu_execution_accelerator:
        where = f'cpu_execution_accelerator "{accelerator.name}"'
        if accelerator.name not in engines.cpu_accelerators:
            raise refused(config, where, f"is not supported: {_listed(engines.cpu_accelerators)}")
        if accelerator.parameters:
            raise refused(config, where, "takes no parameters")
        cpu_engine = accelerator.name
    for accelerator in accelerators.gpu_execution_accelerator:
        where = f'gpu_execution_accelerator "{accelerator.name}"'
        known = (CUDA, *engines.gpu_accelerators)
        if accelerator.name not in known:
            raise refused(config, where, f"is not supported: {_listed(known)}")
        if not on_gpu:
            raise refused(config, where, f"needs a group of KIND_GPU and {CUDA_PROVIDER}")
        if accelerator.name != CUDA:
            gpu_engine = accelerator.name
    return cpu_engine, gpu_engine


def _listed(names: Sequence[str]) -> str:
    quoted = " and ".join(f'"{name}"' for name in names)
    return f"{quoted} {'is' if len(names) == 1 else 'are'}"


def _cuda_options(config: model_config_pb2.ModelConfig) -> dict[str, str]:
    accelerators = config.optimization.execution_accelerators.gpu_execution_accelerator
    return {
        key: value
        for accelerator in accelerators
        if accelerator.name == CUDA
        for key, value in accelerator.parameters.items()
    }


def _parameters(config: model_config_pb2.ModelConfig, known: tuple[str, ...]) -> dict[str, str]:
    for key in sorted(config.parameters):
        if key not in known:
            names = ", ".join(known)
            raise refused(config, f'parameter "{key}"', f"is not supported (supported: {names})")
    return {key: value.string_value for key, value in config.parameters.items()}


def _threads(
    config: model_config_pb2.ModelConfig, parameters: Mapping[str, str], key: str, default: int
) -> int:
    """Return a number of threads; 0, for ONNX Runtime's default, where it is negative."""
    text = parameters.get(key, str(default))
    try:
        count = int(text)
    except ValueError:
        raise refused(config, f'parameter "{key}"', f'is "{text}", must be a number') from None
    return max(0, count)


def _flag(
    config: model_config_pb2.ModelConfig,
    parameters: Mapping[str, str],
    key: str,
    *,
    default: bool,
) -> bool:
    text = parameters.get(key, str(int(default)))
    if text not in ("0", "1"):
        raise refused(config, f'parameter "{key}"', f'is "{text}", must be 0 or 1')
    return text == "1"


def _entry(parameters: Mapping[str, str], key: str) -> dict[str, str]:
    return {key: parameters[key]} if key in parameters else {}
