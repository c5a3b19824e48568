"""Where instances run, and how ONNX Runtime is set."""

from __future__ import annotations

import pytest

from tests.engines.tiny_models import config
from vecserve_server.engines.engine import SessionSettings
from vecserve_server.engines.instances import Placement, placements, with_instance_groups
from vecserve_server.engines.onnx_settings import OnnxSettings, onnx_settings
from vecserve_server.engines.registry import shipped_engines
from vecserve_server.errors import ModelError

CPU_GROUP = 'instance_group { name: "m_0" kind: KIND_CPU count: 5 }'


def placed(text: str, *, cuda: bool = False) -> list[Placement]:
    made = with_instance_groups(config('name: "m" ' + text), cuda=cuda, cpu_instances=5)
    return list(placements(made))


def test_without_a_group_there_is_one_on_the_cpu() -> None:
    made = with_instance_groups(config('name: "m"'), cuda=False, cpu_instances=5)
    assert made == config('name: "m" ' + CPU_GROUP)


@pytest.mark.parametrize(
    ("text", "cuda", "expected"),
    [
        ("instance_group { count: 3 kind: KIND_CPU }", False, [Placement(count=3)]),
        ("instance_group { count: 3 }", False, [Placement(count=3)]),
        (
            "instance_group { count: 1 kind: KIND_CPU } instance_group { count: 2 kind: KIND_CPU }",
            True,
            [Placement(count=3)],
        ),
        ("", True, [Placement(count=1, device_id=0)]),
        ("instance_group { kind: KIND_GPU }", True, [Placement(count=1, device_id=0)]),
        (
            "instance_group { kind: KIND_CPU } instance_group { count: 2 gpus: [1, 3] }",
            True,
            [Placement(count=5), Placement(count=2, device_id=1), Placement(count=2, device_id=3)],
        ),
    ],
)
def test_groups_become_sessions(text: str, cuda: bool, expected: list[Placement]) -> None:
    assert placed(text, cuda=cuda) == expected


@pytest.mark.parametrize(
    ("group", "problem"),
    [
        ("kind: KIND_GPU", "KIND_GPU needs ONNX Runtime's CUDAExecutionProvider"),
        ("gpus: 0", "KIND_GPU needs ONNX Runtime's CUDAExecutionProvider"),
        ("kind: KIND_CPU gpus: 0", "gpus are named beside KIND_CPU"),
        ("kind: KIND_MODEL", "kind must be"),
        ("count: -1", "count must be 1 to 256"),
        ("count: 257", "count must be 1 to 256"),
    ],
)
def test_a_group_that_cannot_be_had_is_refused(group: str, problem: str) -> None:
    with pytest.raises(ModelError, match=problem):
        placed(f"instance_group {{ {group} }}")


def read(text: str, *, max_threads: int = 1024) -> OnnxSettings:
    names = shipped_engines().onnx_names
    return onnx_settings(config(text), names, intra_op_threads=2, max_threads=max_threads)


def settings(text: str, groups: str = CPU_GROUP) -> SessionSettings:
    return read(f'name: "m" {groups} {text}').session


def parameter(key: str, value: str) -> str:
    return f'parameters {{ key: "{key}" value {{ string_value: "{value}" }} }}'


def test_settings_have_defaults() -> None:
    assert settings("") == SessionSettings(
        graph_level="ORT_ENABLE_ALL",
        intra_op_threads=2,
        inter_op_threads=0,
        total_threads=2,
        parallel=False,
        memory_arena=True,
        memory_pattern=False,
        session_entries={},
        run_entries={},
        cuda_options={},
    )


def test_more_threads_than_the_limit_are_so_many() -> None:
    keys = ("intra_op_thread_count", "inter_op_thread_count")
    text = "".join(parameter(key, "1024") for key in keys)
    made = read(f'name: "m" {text}', max_threads=16)
    assert (made.session.intra_op_threads, made.session.inter_op_threads) == (16, 16)
    assert made.lowered == dict.fromkeys(keys, "1024")


def test_instances_are_bounded_over_all_groups() -> None:
    with pytest.raises(ModelError, match="instance_group makes 300 instances, the limit is 256"):
        placed("instance_group { kind: KIND_CPU count: 100 }" * 3)


def test_the_parameters_of_tritons_backend_are_read() -> None:
    given = {
        "intra_op_thread_count": "3",
        "inter_op_thread_count": "-1",
        "execution_mode": "1",
        "enable_mem_arena": "0",
        "enable_mem_pattern": "1",
        "memory.enable_memory_arena_shrinkage": "cpu:0",
        "session.use_device_allocator_for_initializers": "1",
    }
    text = "".join(parameter(key, value) for key, value in given.items())
    assert settings(text) == SessionSettings(
        graph_level="ORT_ENABLE_ALL",
        intra_op_threads=3,
        inter_op_threads=0,
        total_threads=3,
        parallel=True,
        memory_arena=False,
        memory_pattern=True,
        session_entries={"session.use_device_allocator_for_initializers": "1"},
        run_entries={"memory.enable_memory_arena_shrinkage": "cpu:0"},
        cuda_options={},
    )


@pytest.mark.parametrize(
    ("level", "name"),
    [
        (-1, "ORT_ENABLE_BASIC"),
        (0, "ORT_ENABLE_ALL"),
        (1, "ORT_ENABLE_EXTENDED"),
        (2, "ORT_DISABLE_ALL"),
    ],
)
def test_graph_levels_are_tritons(level: int, name: str) -> None:
    assert settings(f"optimization {{ graph {{ level: {level} }} }}").graph_level == name


def test_cuda_takes_its_options_where_there_is_a_gpu() -> None:
    gpu = "instance_group { kind: KIND_GPU gpus: 0 count: 1 }"
    accelerator = (
        "optimization { execution_accelerators { gpu_execution_accelerator { "
        'name: "cuda" parameters { key: "enable_cuda_graph" value: "1" } } } }'
    )
    made = settings(parameter("gpu_mem_limit", "1000") + accelerator, gpu)
    assert made.cuda_options == {"gpu_mem_limit": "1000", "enable_cuda_graph": "1"}
    with pytest.raises(ModelError, match="gpu_mem_limit"):
        settings(parameter("gpu_mem_limit", "1000"))
    with pytest.raises(ModelError, match='gpu_execution_accelerator "cuda" needs a group'):
        settings(accelerator)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (parameter("intra_op_threads", "1"), 'parameter "intra_op_threads" is not supported'),
        (parameter("TRITON_BATCH_STRATEGY_PATH", "a.so"), "TRITON_BATCH_STRATEGY_PATH"),
        (parameter("intra_op_thread_count", "two"), "must be a number"),
        (parameter("execution_mode", "2"), "must be 0 or 1"),
        ("optimization { graph { level: 3 } }", "optimization.graph.level is 3"),
        (
            "optimization { execution_accelerators { cpu_execution_accelerator { "
            'name: "openvino" parameters { key: "device" value: "GPU" } } } }',
            'cpu_execution_accelerator "openvino" takes no parameters',
        ),
        (
            "optimization { execution_accelerators { cpu_execution_accelerator { "
            'name: "dnnl" } } }',
            'cpu_execution_accelerator "dnnl" is not supported',
        ),
        (
            "optimization { execution_accelerators { gpu_execution_accelerator { "
            'name: "tensorrt" } } }',
            'gpu_execution_accelerator "tensorrt" is not supported',
        ),
    ],
)
def test_what_is_not_known_is_refused(text: str, problem: str) -> None:
    with pytest.raises(ModelError, match=problem):
        settings(text)
