"""The RoBERTa family (RoBERTa, XLM-RoBERTa, CamemBERT): BERT with shifted positions.

Owns where the positions start. Must not know pooling, precision or files.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from vecserve_server.importing.families.bert import bert_config, bert_shape, bert_states
from vecserve_server.importing.families.family import EncoderParts, FamilySize, ModelConfigJson
from vecserve_server.importing.families.post_norm import post_norm_build
from vecserve_server.importing.graph.graph import Value


class RobertaFamily:
    """Build `RobertaModel` checkpoints and those of its renamed copies."""

    @property
    def class_by_model_type(self) -> Mapping[str, str]:
        """See `Family`."""
        return {"roberta": "Roberta", "xlm-roberta": "XLMRoberta", "camembert": "Camembert"}

    def size(self, config: ModelConfigJson) -> FamilySize:
        """See `Family`."""
        config = _config(config)
        places = config.integer("max_position_embeddings")
        return FamilySize(
            hidden=bert_shape(config).hidden, max_tokens=places - first_position(config)
        )

    def token_states(self, parts: EncoderParts) -> Value:
        """See `Family`."""
        config = _config(parts.config)
        build = post_norm_build(parts, prefix="roberta.", shape=bert_shape(config))
        first = parts.graph.const(np.int64(first_position(config)))
        return bert_states(build, config, parts.graph.op("Add", parts.rows.places.positions, first))


def _config(config: ModelConfigJson) -> ModelConfigJson:
    """Return the settings with their defaults; RoBERTa's own vocabulary is the larger one."""
    is_roberta = config.model_type() in (None, "roberta")
    return bert_config(config, vocab_size=50265 if is_roberta else 30522)


def first_position(config: ModelConfigJson) -> int:
    """Return the row of the position table that a text's first token uses."""
    return int(config.number("pad_token_id", 1)) + 1
