"""Read what sentence-transformers keeps beside the encoder, such as `sentence_bert_config.json`.

Owns the files' names and keys, and which of them are obeyed. Must not know tokenizers or graphs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from vecserve_server.domain.rows import Json
from vecserve_server.errors import ModelError
from vecserve_server.importing.sources.json_file import JsonObject, read_object

SENTENCE_FILES = tuple(
    f"sentence_{name}_config.json"
    for name in ("bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")
)
"""In the order in which they are looked for; the first that says anything counts."""

_NO_EFFECT = frozenset({"unpad_inputs", "backend"})
_EXPECTED: Mapping[str, Json] = MappingProxyType(
    {
        "transformer_task": "feature-extraction",
        "module_output_name": "token_embeddings",
        "modality_config": {
            "text": {"method": "forward", "method_output_name": "last_hidden_state"}
        },
    }
)
"""Settings that may stand there with this value alone: what a text encoder has."""

_ARGUMENTS = ("model_args", "tokenizer_args", "config_args")
_ARGUMENTS_RENAMED = ("model_kwargs", "processor_kwargs", "config_kwargs")
_ARGUMENTS_NO_EFFECT = frozenset(
    {
        "add_pooling_layer",
        "attn_implementation",
        "device_map",
        "dtype",
        "low_cpu_mem_usage",
        "torch_dtype",
        "trust_remote_code",
        "use_fast",
        "use_safetensors",
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class SentenceSettings:
    """What the file asks for."""

    lower_case: bool = False
    """Whether texts are lower-cased before the tokenizer's own normalisation."""
    max_tokens: int | None = None
    """The longest text, special tokens included; None where the file does not say."""
    files: tuple[Path, ...] = ()
    """What was read."""


def read_sentence_settings(encoder: Path) -> SentenceSettings:
    """Read the encoder's settings; raises `ModelError` naming one that is not obeyed."""
    for name in SENTENCE_FILES:
        path = encoder / name
        if path.is_file() and (settings := read_object(path)):
            return _checked(path, settings)
    return SentenceSettings()


def is_positive(value: Json) -> bool:
    """Return whether a value is a whole number from 1 on."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _checked(path: Path, settings: JsonObject) -> SentenceSettings:
    lower_case = settings.pop("do_lower_case", None)
    limit = settings.pop("max_seq_length", None)
    if lower_case not in (None, True, False):
        raise ModelError(f"{path.name}: do_lower_case is {lower_case!r}, not true or false")
    if limit is not None and not is_positive(limit):
        raise ModelError(f"{path.name}: max_seq_length is {limit!r}, not a positive whole number")
    for key, value in settings.items():
        if value is None or key in _NO_EFFECT or _EXPECTED.get(key) == value:
            continue
        arguments = [key]
        if key in (*_ARGUMENTS, *_ARGUMENTS_RENAMED) and isinstance(value, dict):
            arguments = [f"{key}.{name}" for name in value if name not in _ARGUMENTS_NO_EFFECT]
        for refused in arguments:
            raise ModelError(f"{path.name}: {refused} is not supported")
    return SentenceSettings(
        lower_case=lower_case is True,
        max_tokens=limit if isinstance(limit, int) else None,
        files=(path,),
    )
