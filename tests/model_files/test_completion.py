"""What the graph adds to a configuration, and where the two must agree."""

from __future__ import annotations

import pytest

from tests.engines.tiny_models import config
from vecserve.inference import model_config_pb2
from vecserve_server.errors import ModelError
from vecserve_server.model_files.completion import completed
from vecserve_server.model_files.datatypes import from_onnx
from vecserve_server.model_files.graph import Graph, GraphTensor, Shape
from vecserve_server.model_files.onnx_config import normalised


def tensor(name: str, shape: Shape, kind: str = "float", *, optional: bool = False) -> GraphTensor:
    datatype = from_onnx(kind)
    assert datatype is not None
    return GraphTensor(name=name, datatype=datatype, shape=shape, optional=optional)


def graph(inputs: list[GraphTensor], outputs: list[GraphTensor]) -> Graph:
    return Graph(
        inputs={each.name: each for each in inputs}, outputs={each.name: each for each in outputs}
    )


BATCHED = graph(
    [tensor("ids", (-1, -1), "int64"), tensor("name", (-1, 1), "string")],
    [tensor("vector", (-1, 384)), tensor("norm", (-1,))],
)
BATCHED_TENSORS = """
input { name: "ids" data_type: TYPE_INT64 dims: -1 }
input { name: "name" data_type: TYPE_STRING dims: 1 }
output { name: "vector" data_type: TYPE_FP32 dims: 384 }
output { name: "norm" data_type: TYPE_FP32 dims: 1 reshape {} }
"""


def complete(text: str, of: Graph) -> model_config_pb2.ModelConfig:
    return completed(normalised(config(text)), of)


def expect(text: str) -> model_config_pb2.ModelConfig:
    return normalised(config(text))


def test_a_graph_of_batches_gets_a_batch_size_and_dynamic_batching() -> None:
    made = complete("", BATCHED)
    assert made == expect(
        f"max_batch_size: 4 dynamic_batching {{ preferred_batch_size: 4 }} {BATCHED_TENSORS}"
    )


@pytest.mark.parametrize("given", ["max_batch_size: 16", "max_batch_size: 1"])
def test_a_given_batch_size_stays_and_brings_no_dynamic_batching(given: str) -> None:
    assert complete(given, BATCHED) == expect(given + BATCHED_TENSORS)


def test_a_fixed_first_dimension_makes_a_model_without_batches() -> None:
    made = complete("", graph([tensor("x", (1, -1))], [tensor("y", ())]))
    assert [list(each.dims) for each in made.input] == [[1, -1]]
    assert [list(each.dims) for each in made.output] == [[1]]
    assert made.output[0].HasField("reshape")
    assert not made.max_batch_size


def test_a_scalar_is_no_tensor_of_one_dimension() -> None:
    scalar = GraphTensor(name="x", datatype=tensor("x", ()).datatype, shape=(), is_scalar=True)
    text = 'input { name: "x" data_type: TYPE_FP32 dims: %d }'
    for dim in (1, 2):
        with pytest.raises(ModelError, match=r'input "x" has the shape \[\d\]; the graph has \[\]'):
            complete(text % dim, graph([scalar], [tensor("y", (-1,))]))
    assert complete(text % 2, graph([tensor("x", ())], [tensor("y", (-1,))])), "any shape will do"


def test_an_empty_reshape_needs_batches() -> None:
    text = 'input { name: "x" data_type: TYPE_FP32 dims: 1 reshape {} }'
    with pytest.raises(
        ModelError, match=r'input "x" reshape is empty: scalars are for models with'
    ):
        normalised(config(text))
    normalised(config(f"max_batch_size: 2 {text}"))


def test_only_the_missing_side_is_completed() -> None:
    inputs = BATCHED_TENSORS.split("output", maxsplit=1)[0].replace("dims: -1", "dims: 7")
    made = complete(f"max_batch_size: 2 {inputs}", BATCHED)
    assert [list(each.dims) for each in made.input] == [[7], [1]]
    assert [each.name for each in made.output] == ["vector", "norm"]


def test_a_whole_configuration_without_a_batch_size_means_no_batches() -> None:
    text = """
    input { name: "ids" data_type: TYPE_INT64 dims: [-1, -1] }
    input { name: "name" data_type: TYPE_STRING dims: [-1, 1] }
    output { name: "vector" data_type: TYPE_FP32 dims: [-1, 384] }
    """
    assert complete(text, BATCHED) == expect(text)


def test_dynamic_batching_prefers_full_batches_unless_it_says_otherwise() -> None:
    made = complete(f"max_batch_size: 8 dynamic_batching {{}} {BATCHED_TENSORS}", BATCHED)
    assert list(made.dynamic_batching.preferred_batch_size) == [8]
    chosen = "dynamic_batching { preferred_batch_size: [2, 4] }"
    made = complete(f"max_batch_size: 8 {chosen} {BATCHED_TENSORS}", BATCHED)
    assert list(made.dynamic_batching.preferred_batch_size) == [2, 4]


DISAGREEMENTS = {
    'input "ids" data_type is INT32; the graph has INT64': ("TYPE_INT64", "TYPE_INT32"),
    'output "vector" has the shape [-1, 383]': ("384", "383"),
    'input "idz" is not in the graph, which has ids, name': ('"ids"', '"idz"'),
    'input lacks "name", which the graph needs': (
        'input { name: "name" data_type: TYPE_STRING dims: 1 }',
        "",
    ),
    'output "vector" has the shape [-1, 384, 1]': ("384", "[384, 1]"),
    'input "name" optional is true; the graph needs it': ("dims: 1 }", "dims: 1 optional: true }"),
    'output "norm" has the shape [-1, 1]': ("reshape {}", ""),
}


@pytest.mark.parametrize("problem", DISAGREEMENTS)
def test_a_configuration_that_contradicts_the_graph_is_refused(problem: str) -> None:
    old, new = DISAGREEMENTS[problem]
    text = f"max_batch_size: 8 {BATCHED_TENSORS}"
    complete(text, BATCHED)
    with pytest.raises(ModelError) as caught:
        complete(text.replace(old, new, 1), BATCHED)
    assert problem in str(caught.value)


def test_batches_need_a_free_first_dimension() -> None:
    with pytest.raises(ModelError, match=r'input "x" has a max_batch_size.* must be -1'):
        complete("max_batch_size: 8", graph([tensor("x", (1, 2))], [tensor("y", (-1,))]))


def test_an_optional_input_may_be_left_out_or_named() -> None:
    of = graph([tensor("x", (-1,)), tensor("k", (1,), optional=True)], [tensor("y", (-1,))])
    output = 'output { name: "y" data_type: TYPE_FP32 dims: -1 }'
    x = 'input { name: "x" data_type: TYPE_FP32 dims: -1 }'
    k = 'input { name: "k" data_type: TYPE_FP32 dims: 1 optional: true }'
    assert [each.name for each in complete(x + output, of).input] == ["x"]
    assert [each.name for each in complete(x + k + output, of).input] == ["x", "k"]
