"""Which architecture family builds a checkpoint.

Owns the list of families, how `config.json` names them, and the settings that none of them obeys.
Must not know graphs or files other than that one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType

from vecserve_server.domain.rows import Json
from vecserve_server.errors import ModelError
from vecserve_server.importing.families.bert import BertFamily
from vecserve_server.importing.families.distilbert import DistilBertFamily
from vecserve_server.importing.families.family import Family, ModelConfigJson
from vecserve_server.importing.families.modernbert import ModernBertFamily
from vecserve_server.importing.families.mpnet import MPNetFamily
from vecserve_server.importing.families.roberta import RobertaFamily

FAMILIES: tuple[Family, ...] = (
    BertFamily(),
    RobertaFamily(),
    MPNetFamily(),
    DistilBertFamily(),
    ModernBertFamily(),
)
"""Every architecture family that the exporter can build."""

_CLASS_ENDING = re.compile(r"Model|LMHeadModel|PreTrainedModel|For[A-Z]\w*")
"""The bare encoder, or one of its task heads, which the exporter leaves out."""

_REFUSED: Mapping[str, str] = MappingProxyType(
    {
        "is_decoder": "a decoder, whose tokens see only the tokens before them",
        "add_cross_attention": "attention to another model's states",
        "pruned_heads": "layers with fewer heads than the others",
        "quantization_config": "quantised weights: import the checkpoint they were made from",
        "compression_config": "compressed weights: import the checkpoint they were made from",
    }
)
"""Settings that change vectors, and what they ask for."""


def family_for(config: ModelConfigJson) -> Family:
    """Return the family that builds the checkpoint.

    `model_type` decides, as it does for transformers, else the first of `architectures`. Raises
    `ModelError` that lists what is supported, or names a setting that no family obeys.
    """
    family = _family(config)
    for key, meaning in _REFUSED.items():
        if config.values.get(key):
            raise ModelError(f"config.json: {key} is not supported: it asks for {meaning}")
    if (code := _own_code(config.values.get("auto_map"))) is not None:
        raise ModelError(
            f"config.json: auto_map names the checkpoint's own code ({code}), which is not run"
        )
    return family


def class_name(config: ModelConfigJson) -> str:
    """Return what the checkpoint calls its class; raises as `family_for` does."""
    family = family_for(config)
    names = family.class_by_model_type
    return config.architecture() or f"{names[config.model_type() or next(iter(names))]}Model"


def is_supported(config: ModelConfigJson) -> bool:
    """Return whether a family builds the checkpoint with the settings that it has."""
    try:
        family_for(config).size(config)
    except ModelError:
        return False
    return True


def _family(config: ModelConfigJson) -> Family:
    model_type, architecture = config.model_type(), config.architecture()
    if model_type is None and architecture is None:
        raise ModelError("config.json: model_type is missing, and architectures names no class")
    for family in FAMILIES:
        names = family.class_by_model_type
        if model_type in names or (
            model_type is None and any(_is_of(str(architecture), name) for name in names.values())
        ):
            return family
    listed = [item for family in FAMILIES for item in family.class_by_model_type.items()]
    if model_type is None:
        supported = ", ".join(f"{name}Model" for _, name in listed)
        found = f"architecture {architecture}"
    else:
        supported = ", ".join(name for name, _ in listed)
        found = f"model_type {model_type}"
    raise ModelError(f"config.json: {found} is not supported (supported: {supported})")


def _is_of(architecture: str, name: str) -> bool:
    ending = architecture.removeprefix(name)
    return ending != architecture and _CLASS_ENDING.fullmatch(ending) is not None


def _own_code(auto_map: Json) -> str | None:
    """Return the class of its own that the checkpoint wants to be loaded with."""
    named = auto_map.get("AutoModel") if isinstance(auto_map, dict) else None
    return None if named is None else str(named)
