"""The RoBERTa family (RoBERTa, XLM-RoBERTa, CamemBERT): BERT with shifted positions.

Owns where the positions start. Must not know pooling, precision or files.
"""

from __future__ import annotations

import numpy as np

from vecserve_server.export.bert import bert_shape, bert_states
from vecserve_server.export.family import EncoderParts, FamilySize, ModelConfigJson
from vecserve_server.export.graph import Value
from vecserve_server.export.post_norm import post_norm_build


class RobertaFamily:
    """Build `RobertaModel` checkpoints and those of its renamed copies."""

    @property
    def architectures(self) -> tuple[str, ...]:
        """See `Family`."""
        names = ("Roberta", "XLMRoberta", "Camembert")
        return tuple(f"{name}{head}" for name in names for head in ("Model", "ForMaskedLM"))

    def size(self, config: ModelConfigJson) -> FamilySize:
        """See `Family`."""
        places = config.integer("max_position_embeddings")
        return FamilySize(
            hidden=bert_shape(config).hidden, max_tokens=places - first_position(config)
        )

    def token_states(self, parts: EncoderParts) -> Value:
        """See `Family`."""
        build = post_norm_build(parts, prefix="roberta.", shape=bert_shape(parts.config))
        first = parts.graph.const(np.int64(first_position(parts.config)))
        return bert_states(
            build, parts.config, parts.graph.op("Add", parts.rows.places.positions, first)
        )


def first_position(config: ModelConfigJson) -> int:
    """Return the row of the position table that a text's first token uses."""
    return int(config.number("pad_token_id", 1)) + 1
