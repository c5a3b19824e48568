"""Render the `config.pbtxt` of an imported model.

Owns the file's shape and its comments. Must not know checkpoints.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestDefaults:
    """What a request gets that does not say otherwise."""

    normalise: bool = True
    truncation_side: str = "right"
    include_prompt: bool = True
    prompts: Mapping[str, str] = field(default_factory=dict)
    default_prompt: str | None = None


_USUAL = RequestDefaults()


def render_config(
    *,
    name: str,
    dim: int,
    max_tokens: int,
    precision: str,
    layout: str = "packed",
    run_alone: bool = False,
    defaults: RequestDefaults = _USUAL,
) -> str:
    """Return the text of a `config.pbtxt` in Triton's schema."""
    lines = [_HEAD.format(name=_quoted(name), dim=dim)]
    lines.append(
        _parameter("precision", precision, "int8 is fastest on a CPU; fp32 is the reference.")
    )
    lines.append(
        _parameter("max_tokens", str(max_tokens), "Longest text, special tokens included.")
    )
    lines.append(_parameter("row_tokens", "128", "Texts share rows of at most this many tokens."))
    lines.append(
        _parameter("run_tokens", "256", "Tokens per run: more adds delay, not throughput.")
    )
    lines.append(
        _parameter(
            "intra_op_thread_count", "1", "Threads in a run; times instances, at most the cores."
        )
    )
    if layout == "packed":
        lines.append(_ENGINE)
    else:
        lines.append(_parameter("layout", layout, "Texts are padded to one length in a run."))
    if run_alone:
        lines.append(
            _parameter(
                "run_alone", "true", "Texts that share a run change each other's vectors a little."
            )
        )
    if not defaults.normalise:
        lines.append(
            _parameter("normalise", "false", "Vectors keep the length that the model gives them.")
        )
    if defaults.truncation_side != "right":
        lines.append(
            _parameter(
                "truncation_side", defaults.truncation_side, "The end that texts lose, if too long."
            )
        )
    if not defaults.include_prompt:
        lines.append(
            _parameter("include_prompt", "false", "The tokens of a prompt are left out of pooling.")
        )
    for key, text in defaults.prompts.items():
        lines.append(
            _parameter(f"prompt.{key}", text, f"Put before texts embedded as {_quoted(key)}.")
        )
    if defaults.default_prompt is not None:
        lines.append(
            _parameter("default_prompt", defaults.default_prompt, "Used when a request names none.")
        )
    return "\n".join(lines)


def _parameter(key: str, value: str, comment: str) -> str:
    entry = f"key: {_quoted(key)} value {{ string_value: {_quoted(value)} }}"
    return f"# {comment}\nparameters {{ {entry} }}\n"


def _quoted(text: str) -> str:
    """Quote for protobuf's text format, which shares JSON's escapes but for surrogate pairs."""
    return json.dumps(text, ensure_ascii=False)


_ENGINE = """\
# "auto": the engine that runs the model faster on this machine, ONNX Runtime or OpenVINO. It is
# measured at the first load and kept in the repository's .cache, because int8 vectors of one engine
# do not compare with those of the other. Or "onnxruntime". Or, without this parameter, OpenVINO:
#   optimization { execution_accelerators { cpu_execution_accelerator [ { name: "openvino" } ] } }
parameters { key: "engine" value { string_value: "auto" } }
# Shapes of runs that OpenVINO prepares a graph for, some 25 MB each with a small model; 0: none.
parameters { key: "fixed_shapes" value { string_value: "16" } }
"""

_HEAD = """\
# Triton's model configuration (inference.ModelConfig). A field or parameter that this server
# does not support is refused at load, never ignored.
name: {name}
backend: "vecserve"

# Texts in one request.
max_batch_size: 64

# Requests may hold, instead of text, the ids of an already tokenised text, special tokens included:
# input_ids with attention_mask, INT64 [ -1 ]. Listed here (as optional: true), they appear in the
# metadata, too, and perf_analyzer refuses --shared-memory.
input [ {{ name: "text" data_type: TYPE_STRING dims: [ 1 ] }} ]
output [
  {{ name: "embedding" data_type: TYPE_FP32 dims: [ {dim} ] }}
]

# Requests that wait at the same time share a run.
dynamic_batching {{ }}

# Without a count: one instance per physical core.
instance_group [ {{ kind: KIND_CPU }} ]
"""
