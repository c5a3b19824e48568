"""The ways to serve the sentence encoder with Triton, and the repositories that hold them.

Owns every form that was tried, as Triton configurations around `python_model.py`, and the plain
ONNX model that both servers run from one file. Must not know how they are measured.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from vecserve_server.measuring.encoder.baseline import build

MAX_TOKENS: Final = 256
EMBEDDING_DIM: Final = 384
_DELAYED: Final = "dynamic_batching { max_queue_delay_microseconds: 1000 }"
_PLAIN: Final = "dynamic_batching { }"
_TOGETHER, _ALONE = "inf", "-1"
_MODEL_CODE: Final = Path(__file__).with_name("python_model.py")
USUAL: Final = "usual"
BEST: Final = ("alone-fused", "sorted-25-fused", "sorted-25-8-fused")
"""The fastest forms; which one leads depends on the traffic."""
PLAIN_ONNX: Final[Mapping[str, str]] = {"onnx-alone": "", "onnx-batched": _PLAIN}
"""The models that both servers run from one ONNX file, and their batching."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """One configuration of Triton; the instances are on the CPU."""

    name: str
    batching: str = ""
    """What config.pbtxt says about it; nothing: one request per execution."""
    max_padding: str = _ALONE
    """Texts of one execution share a run where none grows by more than this share."""
    instances: int
    threads: int = 1
    max_batch_size: int = 32
    fused_attention: bool = False


def forms(cores: int) -> Mapping[str, Form]:
    """Return every form by name, for a machine with this many cores."""
    padded = Form(name="usual", batching=_DELAYED, max_padding=_TOGETHER, instances=cores)
    alone = Form(name="alone", instances=cores)
    batched = replace(alone, name="batched-alone", batching=_PLAIN)
    near = replace(batched, name="sorted-10", max_padding="0.1")
    tried = (
        padded,
        replace(padded, name="usual-no-delay", batching=_PLAIN),
        replace(padded, name="usual-one-instance", instances=1, threads=cores),
        replace(padded, name="padded-4", batching=_PLAIN, max_batch_size=4),
        alone,
        replace(alone, name="alone-fused", fused_attention=True),
        replace(alone, name="alone-more-instances", instances=cores + 1),
        replace(alone, name="alone-one-instance", instances=1, threads=cores),
        batched,
        replace(batched, name="batched-alone-4", max_batch_size=4),
        replace(near, name="sorted-equal", max_padding="0"),
        near,
        replace(near, name="sorted-10-fused", fused_attention=True),
        replace(near, name="sorted-25", max_padding="0.25"),
        replace(near, name="sorted-25-8", max_padding="0.25", max_batch_size=8),
        replace(near, name="sorted-25-fused", max_padding="0.25", fused_attention=True),
        replace(near, name="sorted-50-fused", max_padding="0.5", fused_attention=True),
        replace(
            near,
            name="sorted-25-8-fused",
            max_padding="0.25",
            max_batch_size=8,
            fused_attention=True,
        ),
    )
    return {form.name: form for form in tried}


def build_graphs(wheel: Path, folder: Path) -> None:
    """Write the quantised graphs that are not there yet."""
    for fused in (False, True):
        target = _graph(folder, fused=fused)
        if not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            build(wheel, target.parent, fused_attention=fused)


def write_triton_repository(
    root: Path, *, graphs: Path, tokenizer: Path, chosen: Sequence[Form]
) -> None:
    """Write a repository with a model for each form, and the plain ONNX models."""
    configs = {form.name: (_text_config(form), form.fused_attention) for form in chosen}
    for name in PLAIN_ONNX:
        configs[name] = (_plain_config(name, "python", chosen[0].instances), False)
    for name, (config, fused) in configs.items():
        version = _version(root, name, config)
        shutil.copy(_MODEL_CODE, version / "model.py")
        shutil.copy(tokenizer, version / "tokenizer.json")
        (version / "model.onnx").symlink_to(_graph(graphs, fused=fused).resolve())


def write_plain_onnx(root: Path, *, graphs: Path, instances: int) -> None:
    """Write the plain ONNX models for a server that runs ONNX files itself."""
    for name in PLAIN_ONNX:
        version = _version(root, name, _plain_config(name, "onnxruntime", instances))
        (version / "model.onnx").symlink_to(_graph(graphs, fused=False).resolve())


def _graph(folder: Path, *, fused: bool) -> Path:
    return folder / ("fused" if fused else "plain") / "padded.int8.onnx"


def _version(root: Path, name: str, config: str) -> Path:
    version = root / name / "1"
    version.mkdir(parents=True)
    (root / name / "config.pbtxt").write_text(config, encoding="utf-8")
    return version


def _text_config(form: Form) -> str:
    return f"""
name: "{form.name}"
backend: "python"
max_batch_size: {form.max_batch_size}
input [ {{ name: "text" data_type: TYPE_STRING dims: [ 1 ] }} ]
output [ {{ name: "embedding" data_type: TYPE_FP32 dims: [ {EMBEDDING_DIM} ] }} ]
instance_group [ {{ kind: KIND_CPU count: {form.instances} }} ]
{form.batching}
{_model_parameters(form.max_padding, form.threads)}
"""


def _plain_config(name: str, backend: str, instances: int) -> str:
    """Both servers get the same but for who runs the file; one thread in each session."""
    parameters = (
        _model_parameters(_TOGETHER, 1)
        if backend == "python"
        else _parameters({"intra_op_thread_count": "1", "inter_op_thread_count": "1"})
    )
    return f"""
name: "{name}"
backend: "{backend}"
max_batch_size: 32
input [
  {{ name: "input_ids" data_type: TYPE_INT64 dims: [ -1 ] }},
  {{ name: "attention_mask" data_type: TYPE_INT64 dims: [ -1 ] }}
]
output [ {{ name: "embedding" data_type: TYPE_FP32 dims: [ {EMBEDDING_DIM} ] }} ]
instance_group [ {{ kind: KIND_CPU count: {instances} }} ]
{PLAIN_ONNX[name]}
{parameters}
"""


def _model_parameters(max_padding: str, threads: int) -> str:
    return _parameters(
        {"max_padding": max_padding, "max_tokens": str(MAX_TOKENS), "threads": str(threads)}
    )


def _parameters(values: Mapping[str, str]) -> str:
    return "\n".join(
        f'parameters {{ key: "{key}" value {{ string_value: "{value}" }} }}'
        for key, value in values.items()
    )
