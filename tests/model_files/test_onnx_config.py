"""What a configuration may say, and what it means where it is silent."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.engines.tiny_models import config
from vecserve_server.errors import ModelError
from vecserve_server.model_files.onnx_config import is_onnx_model, model_file, normalised
from vecserve_server.model_files.tensor_spec import TensorSpec, check_reshape

X = 'input { name: "x" data_type: TYPE_FP32 dims: 2 }'

UNSUPPORTED = {
    "sequence_batching": "sequence_batching {}",
    "ensemble_scheduling": "ensemble_scheduling {}",
    "input[0].allow_ragged_batch": X.replace("dims", "allow_ragged_batch: true dims"),
    "input[0].is_shape_tensor": X.replace("dims", "is_shape_tensor: true dims"),
    "input[0].is_non_linear_format_io": X.replace("dims", "is_non_linear_format_io: true dims"),
    "output[0].is_shape_tensor": 'output { name: "y" is_shape_tensor: true }',
    "batch_input": "batch_input {}",
    "batch_output": "batch_output {}",
    "model_transaction_policy.decoupled": "model_transaction_policy { decoupled: true }",
    "model_operations": 'model_operations { op_library_filename: "a.so" }',
    "model_repository_agents": "model_repository_agents {}",
    "cc_model_filenames": 'cc_model_filenames { key: "7.5" value: "a.onnx" }',
    "instance_group[0].rate_limiter": "instance_group { rate_limiter {} }",
    "instance_group[0].passive": "instance_group { passive: true }",
    "instance_group[0].host_policy": 'instance_group { host_policy: "numa" }',
    "instance_group[0].profile": 'instance_group { profile: "0" }',
    "instance_group[0].secondary_devices": "instance_group { secondary_devices {} }",
}

WRONG = {
    'platform is "tensorrt_plan"': 'platform: "tensorrt_plan"',
    'backend is "python"': 'backend: "python"',
    'runtime "libother.so"': 'runtime: "libother.so"',
    "max_batch_size must not be negative": "max_batch_size: -1",
    "default_model_filename": 'default_model_filename: "../model.onnx"',
    "input[0].name is empty": "input { data_type: TYPE_FP32 dims: 1 }",
    'input "x" comes twice': X + X,
    'input "x" data_type TYPE_INVALID': 'input { name: "x" dims: 1 }',
    'input "x" has no dims': 'input { name: "x" data_type: TYPE_FP32 }',
    'input "x" dims [0]': X.replace("dims: 2", "dims: 0"),
    'input "x" dims [-2]': X.replace("dims: 2", "dims: -2"),
    'input "x" reshape [3]': X.replace("dims", "reshape { shape: 3 } dims"),
    'output "y" label_filename': (
        'output { name: "y" data_type: TYPE_FP32 dims: 1 label_filename: "/etc/passwd" }'
    ),
}


@pytest.mark.parametrize("field", UNSUPPORTED)
def test_a_field_that_is_not_supported_is_refused_by_its_name(field: str) -> None:
    with pytest.raises(ModelError) as caught:
        normalised(config('name: "m" ' + UNSUPPORTED[field]))
    assert str(caught.value) == f"m/config.pbtxt: {field} is not supported"


@pytest.mark.parametrize("problem", WRONG)
def test_a_wrong_value_is_refused(problem: str) -> None:
    with pytest.raises(ModelError) as caught:
        normalised(config(WRONG[problem]))
    assert problem in str(caught.value)


def test_a_model_without_a_configuration_gets_tritons_defaults() -> None:
    made = normalised(config('name: "m"'))
    assert made == config(
        'name: "m" platform: "onnxruntime_onnx" backend: "onnxruntime" '
        'default_model_filename: "model.onnx" version_policy { latest { num_versions: 1 } }'
    )


def test_what_changes_no_answer_is_accepted() -> None:
    given = config(
        'runtime: "libtriton_onnxruntime.so" model_transaction_policy {} metric_tags {} '
        "optimization { priority: PRIORITY_MAX cuda { graphs: true } eager_batching: true "
        "input_pinned_memory { enable: true } output_pinned_memory { enable: false } } "
        "response_cache { enable: true } dynamic_batching { preserve_ordering: true }"
    )
    made = normalised(given)
    for field, value in given.ListFields():
        assert getattr(made, field.name) == value
    assert given.platform == "", "the argument is left as it is"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", True),
        ('backend: "onnxruntime"', True),
        ('platform: "onnxruntime_onnx"', True),
        ('backend: "vecserve"', False),
        ('platform: "ensemble"', False),
    ],
)
def test_models_for_onnx_runtime_are_told_from_others(text: str, expected: bool) -> None:
    assert is_onnx_model(config(text)) is expected


def test_the_model_file_may_be_a_folder_and_has_to_exist(tmp_path: Path) -> None:
    made = normalised(config('default_model_filename: "net"'))
    with pytest.raises(ModelError, match="net is missing"):
        model_file(tmp_path, made)
    (tmp_path / "net").mkdir()
    (tmp_path / "net" / "model.onnx").touch()
    assert model_file(tmp_path, made) == tmp_path / "net" / "model.onnx"


DIMS = st.lists(st.sampled_from([-1, 1, 2, 3, 4, 6]), max_size=4).map(tuple)


@given(dims=DIMS.filter(bool), reshape=DIMS, batched=st.booleans(), data=st.data())
def test_an_accepted_reshape_turns_every_tensor_into_the_graphs_and_back(
    dims: tuple[int, ...], reshape: tuple[int, ...], batched: bool, data: st.DataObject
) -> None:
    if check_reshape(dims, reshape) is not None:
        return
    text = f'name: "x" data_type: TYPE_FP32 dims: {list(dims)} reshape {{ shape: {list(reshape)} }}'
    spec = TensorSpec.read(config(f"input {{ {text} }}").input[0], batched=batched)
    sizes = st.integers(0, 3)
    shape = tuple(data.draw(sizes) if size == -1 else size for size in spec.shape)
    array = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    inside = spec.to_graph(array)
    assert inside.ndim == len(spec.graph_shape)
    assert all(
        want in (-1, size) for size, want in zip(inside.shape, spec.graph_shape, strict=True)
    )
    np.testing.assert_array_equal(spec.from_graph(inside), array, strict=True)


@pytest.mark.parametrize(
    ("dims", "reshape", "fits"),
    [
        ((1,), (), True),
        ((2, 3), (6,), True),
        ((-1, 2, 3), (-1, 6), True),
        ((4, -1, 2), (2, 2, -1, 2), True),
        ((-1, 3), (3, -1), False),
        ((-1,), (-1, -1), False),
        ((2,), (3,), False),
        ((-1, 2), (-1, 3), False),
        ((4,), (0,), False),
    ],
)
def test_a_reshape_keeps_the_elements_between_free_sizes(
    dims: tuple[int, ...], reshape: tuple[int, ...], fits: bool
) -> None:
    assert (check_reshape(dims, reshape) is None) is fits
