"""What `transformers` makes of a tiny checkpoint. Needs torch."""

from __future__ import annotations

import importlib
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file

from tests.importing.tiny_families import POOLINGS, TinyFamily, pooled
from vecserve_server.domain.vectors import TokenIds


def token_states(
    family: TinyFamily, sequences: Sequence[TokenIds], folder: Path
) -> list[NDArray[np.float32]]:
    """Return each sequence's last hidden states [T, hidden], run alone.

    Raises `ValueError` where the model does not take exactly the family's tensors.
    """
    # By name, because the project itself does not depend on them.
    torch, transformers = map(importlib.import_module, ("torch", "transformers"))
    (folder / "config.json").write_text(json.dumps(dict(family.config)), encoding="utf-8")
    save_file(family.tensors(), folder / "model.safetensors", metadata={"format": "pt"})
    model, loading = transformers.AutoModel.from_pretrained(
        folder, local_files_only=True, output_loading_info=True, attn_implementation="eager"
    )
    missing = [name for name in loading["missing_keys"] if "pooler" not in name]
    if missing or loading["unexpected_keys"]:
        raise ValueError(f"{family.name}: {missing} missing, {loading['unexpected_keys']} unused")
    model.eval()
    with torch.inference_mode():
        return [
            model(input_ids=torch.tensor(ids)[None]).last_hidden_state[0].numpy()
            for ids in sequences
        ]


def expected_vectors(
    family: TinyFamily, sequences: Sequence[TokenIds], folder: Path
) -> NDArray[np.float32]:
    """Return float32 [poolings, sequences, hidden], not normalised."""
    states = token_states(family, sequences, folder)
    return np.array(
        [[pooled(state, pooling) for state in states] for pooling in POOLINGS], np.float32
    )
