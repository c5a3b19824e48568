"""What the graph says where the configuration is silent, and whether the two agree.

Owns Triton's rules of auto-completion for ONNX models. Must not know sessions.
"""

from __future__ import annotations

from collections.abc import Mapping

from vecserve.inference import model_config_pb2
from vecserve_server.model_files.config_file import refused
from vecserve_server.model_files.graph import Graph, GraphTensor
from vecserve_server.model_files.onnx_config import fill_batching
from vecserve_server.model_files.tensor_spec import TensorSpec, fits

DEFAULT_MAX_BATCH_SIZE = 4


def completed(config: model_config_pb2.ModelConfig, graph: Graph) -> model_config_pb2.ModelConfig:
    """Return a copy with what the graph knows, checked against it; `config` is normalised.

    Only a configuration without inputs or without outputs is completed. A model whose tensors all
    have a free first dimension then gets the default batch size and dynamic batching, unless the
    configuration has them. Raises `ModelError` where the two disagree.
    """
    made = model_config_pb2.ModelConfig()
    made.CopyFrom(config)
    if not made.input or not made.output:
        _complete_batching(made, graph)
        _complete_tensors(made, graph)
    fill_batching(made)
    _check_agreement(made, graph)
    return made


def _complete_batching(config: model_config_pb2.ModelConfig, graph: Graph) -> None:
    tensors = [*graph.inputs.values(), *graph.outputs.values()]
    takes_batches = all(tensor.shape[:1] == (-1,) for tensor in tensors if not tensor.optional)
    if config.max_batch_size or not takes_batches:
        return
    config.max_batch_size = DEFAULT_MAX_BATCH_SIZE
    if not config.HasField("dynamic_batching"):
        config.dynamic_batching.SetInParent()


def _complete_tensors(config: model_config_pb2.ModelConfig, graph: Graph) -> None:
    batched = config.max_batch_size > 0
    if not config.input:
        for tensor in graph.inputs.values():
            if not tensor.optional:
                _describe(config.input.add(), tensor, batched=batched)
    if not config.output:
        for tensor in graph.outputs.values():
            _describe(config.output.add(), tensor, batched=batched)


def _describe(
    described: model_config_pb2.ModelInput | model_config_pb2.ModelOutput,
    tensor: GraphTensor,
    *,
    batched: bool,
) -> None:
    described.name = tensor.name
    described.data_type = tensor.datatype.proto
    dims = tensor.shape[1:] if batched else tensor.shape
    described.dims.extend(dims or (1,))
    if not dims:  # a tensor without dims cannot be written down in a ModelConfig
        described.reshape.SetInParent()


def _check_agreement(config: model_config_pb2.ModelConfig, graph: Graph) -> None:
    batched = config.max_batch_size > 0
    inputs = [TensorSpec.read(tensor, batched=batched) for tensor in config.input]
    outputs = [TensorSpec.read(tensor, batched=batched) for tensor in config.output]
    for spec in inputs:
        found = _found(config, "input", spec, graph.inputs)
        if spec.optional and not found.optional:
            raise refused(config, f'input "{spec.name}" optional', "is true; the graph needs it")
    for spec in outputs:
        _found(config, "output", spec, graph.outputs)
    for tensor in graph.inputs.values():
        if not tensor.optional and tensor.name not in {spec.name for spec in inputs}:
            raise refused(config, "input", f'lacks "{tensor.name}", which the graph needs')


def _found(
    config: model_config_pb2.ModelConfig,
    side: str,
    spec: TensorSpec,
    tensors: Mapping[str, GraphTensor],
) -> GraphTensor:
    """Return the graph's tensor of that name; raises `ModelError` where it is another kind."""
    where = f'{side} "{spec.name}"'
    tensor = tensors.get(spec.name)
    if tensor is None:
        raise refused(config, where, f"is not in the graph, which has {', '.join(tensors)}")
    if tensor.datatype != spec.datatype:
        problem = f"data_type is {spec.datatype.name}; the graph has {tensor.datatype.name}"
        raise refused(config, where, problem)
    if spec.batched and tensor.shape[:1] != (-1,):
        problem = f"has a max_batch_size, but in the graph the shape {list(tensor.shape)}"
        raise refused(config, where, f"{problem}, whose first dimension must be -1")
    says_shape = tensor.is_scalar or bool(tensor.shape)
    if says_shape and not fits(spec.graph_shape, tensor.shape):
        problem = f"has the shape {list(spec.graph_shape)}; the graph has {list(tensor.shape)}"
        raise refused(config, where, problem)
    return tensor
