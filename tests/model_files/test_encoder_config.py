"""`config.pbtxt`: what is not supported is refused by its name."""

from __future__ import annotations

from pathlib import Path

import pytest

from vecserve_server.engines.registry import shipped_engines
from vecserve_server.errors import ModelError
from vecserve_server.importing.config_template import RequestDefaults, render_config
from vecserve_server.model_files.config_file import read_config_file
from vecserve_server.model_files.encoder_config import (
    EncoderConfig,
    encoder_config,
)

COMMITTED = Path(__file__).parents[2] / "model_repository" / "all-MiniLM-L6-v2" / "config.pbtxt"
RENDERED = render_config(name="m", dim=8, max_tokens=32, precision="int8")


AUTO = 'parameters { key: "engine" value { string_value: "auto" } }'


def _accelerator(name: str, more: str = "") -> str:
    named = f'cpu_execution_accelerator [ {{ name: "{name}" {more} }} ]'
    return f"optimization {{ execution_accelerators {{ {named} }} }}"


def parse(tmp_path: Path, text: str) -> EncoderConfig:
    path = tmp_path / "config.pbtxt"
    path.write_text(text, encoding="utf-8")
    return encoder_config(read_config_file(path), shipped_engines().encoder_names)


def test_the_committed_file_is_what_an_import_writes() -> None:
    expected = render_config(name="all-MiniLM-L6-v2", dim=384, max_tokens=256, precision="int8")

    assert COMMITTED.read_text("utf-8") == expected


def test_a_rendered_file_means_what_was_rendered(tmp_path: Path) -> None:
    prompts = {"query": 'search "this":\n', "unicode": "größe ☃"}
    defaults = RequestDefaults(prompts=prompts, default_prompt="query")
    text = render_config(name="m.1", dim=8, max_tokens=32, precision="fp32", defaults=defaults)

    assert parse(tmp_path, text) == EncoderConfig(
        name="m.1",
        dim=8,
        max_batch_size=64,
        max_tokens=32,
        row_tokens=128,
        run_tokens=256,
        precision="fp32",
        engine="auto",
        layout="packed",
        run_alone=None,
        normalise=True,
        truncation_side="right",
        include_prompt=True,
        instance_count=0,
        intra_op_thread_count=1,
        fixed_shapes=16,
        prompts=prompts,
        default_prompt="query",
    )


@pytest.mark.parametrize(
    ("addition", "field"),
    [
        ("sequence_batching { }", "sequence_batching"),
        ("ensemble_scheduling { }", "ensemble_scheduling"),
        ("optimization { cuda { } }", "optimization.cuda"),
        (
            'optimization { execution_accelerators { gpu_execution_accelerator { name: "x" } } }',
            "gpu_execution_accelerator",
        ),
        (_accelerator("openvino"), 'parameter "engine"'),
        ("model_warmup { }", "model_warmup"),
        ("batch_input { }", "batch_input"),
        ('default_model_filename: "m.onnx"', "default_model_filename"),
        ("model_transaction_policy { decoupled: true }", "model_transaction_policy"),
        ('backend: "onnxruntime"', "backend"),
        ("max_batch_size: 0", "max_batch_size"),
        ("instance_group { kind: KIND_CPU }", "instance_group"),
        ('input { name: "image" data_type: TYPE_FP32 dims: [ 1 ] }', 'input "image"'),
        ('output { name: "logits" data_type: TYPE_FP32 dims: [ 1 ] }', "output"),
        ('parameters { key: "max_token" value { string_value: "1" } }', 'parameter "max_token"'),
        ('parameters { key: "max_tokens" value { string_value: "0" } }', "max_tokens"),
        ('parameters { key: "row_tokens" value { string_value: "²" } }', "row_tokens"),
        ('parameters { key: "precision" value { string_value: "fp8" } }', "precision"),
        ('parameters { key: "engine" value { string_value: "tensorrt" } }', "engine"),
        ('parameters { key: "layout" value { string_value: "ragged" } }', "layout"),
        ('parameters { key: "normalise" value { string_value: "yes" } }', "normalise"),
        ('parameters { key: "truncation_side" value { string_value: "up" } }', "truncation_side"),
        ('parameters { key: "include_prompt" value { string_value: "no" } }', "include_prompt"),
        ('parameters { key: "default_prompt" value { string_value: "x" } }', "default_prompt"),
    ],
)
def test_an_unsupported_setting_is_refused_by_name(
    tmp_path: Path, addition: str, field: str
) -> None:
    scalar = addition.split(":", maxsplit=1)[0] if "{" not in addition else None
    lines = [line for line in RENDERED.splitlines() if not (scalar and line.startswith(scalar))]

    with pytest.raises(ModelError) as caught:
        parse(tmp_path, "\n".join([*lines, addition]))
    assert field in str(caught.value)


@pytest.mark.parametrize(
    ("old", "new", "field"),
    [
        ("kind: KIND_CPU", "kind: KIND_GPU", "KIND_GPU"),
        ("kind: KIND_CPU", "kind: KIND_CPU count: -1", "count"),
        ("kind: KIND_CPU", "kind: KIND_CPU passive: true", "passive"),
        ("TYPE_STRING dims", "TYPE_STRING allow_ragged_batch: true dims", "allow_ragged_batch"),
        ("TYPE_STRING dims", "TYPE_STRING optional: true dims", "optional"),
        ("TYPE_STRING dims", "TYPE_INT32 dims", 'input "text"'),
        ("TYPE_FP32 dims", "TYPE_FP16 dims", 'output "embedding"'),
        ("dims: [ 8 ]", "dims: [ -1 ]", 'output "embedding"'),
        ('key: "max_tokens"', 'key: "run_tokens"', 'parameter "max_tokens" is missing'),
    ],
)
def test_a_changed_meaning_is_refused_by_name(
    tmp_path: Path, old: str, new: str, field: str
) -> None:
    assert old in RENDERED

    with pytest.raises(ModelError) as caught:
        parse(tmp_path, RENDERED.replace(old, new))
    assert field in str(caught.value)


def test_an_unknown_field_is_refused_with_its_line(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r'1:1 .*no field named "nmae"'):
        parse(tmp_path, 'nmae: "m"')


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"config\.pbtxt is missing"):
        read_config_file(tmp_path / "config.pbtxt")


@pytest.mark.parametrize(
    ("setting", "engine"),
    [
        ("", "onnxruntime"),
        (AUTO, "auto"),
        ('parameters { key: "engine" value { string_value: "onnxruntime" } }', "onnxruntime"),
        (_accelerator("openvino"), "openvino"),
        ("optimization { }", "onnxruntime"),
    ],
)
def test_the_engine_is_an_accelerator_or_auto(tmp_path: Path, setting: str, engine: str) -> None:
    assert AUTO in RENDERED

    assert parse(tmp_path, RENDERED.replace(AUTO, setting)).engine == engine


@pytest.mark.parametrize(
    ("accelerator", "problem"),
    [
        (_accelerator("tensorrt"), "tensorrt"),
        (_accelerator("openvino", 'parameters { key: "a" value: "b" }'), "takes no parameters"),
        (_accelerator('openvino" }, { name: "openvino'), "alone"),
    ],
)
def test_other_accelerators_are_refused_by_name(
    tmp_path: Path, accelerator: str, problem: str
) -> None:
    with pytest.raises(ModelError, match=problem):
        parse(tmp_path, RENDERED.replace(AUTO, accelerator))


def test_a_padded_model_that_is_not_normalised_says_so(tmp_path: Path) -> None:
    text = render_config(
        name="m",
        dim=8,
        max_tokens=32,
        precision="fp32",
        layout="padded",
        defaults=RequestDefaults(normalise=False, include_prompt=False, truncation_side="left"),
    )
    found = parse(tmp_path, text)

    assert (found.layout, found.normalise, found.engine) == ("padded", False, "onnxruntime")
    assert (found.include_prompt, found.truncation_side) == (False, "left")
