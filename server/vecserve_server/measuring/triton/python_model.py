"""The sentence encoder as a model of Triton's Python backend.

Owns tokenising, how the requests of one execution share runs, and the ONNX Runtime session. Copied
into Triton's model repository and run there, where vecserve is not installed.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import tokenizers
import triton_python_backend_utils as pb_utils  # type: ignore[import-not-found]
from numpy.typing import NDArray


class TritonPythonModel:
    """Texts, or token ids, to embeddings; the form comes from the config's parameters."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load the tokenizer and the graph beside this file."""
        config = json.loads(args["model_config"])
        parameters = {k: v["string_value"] for k, v in config["parameters"].items()}
        folder = Path(args["model_repository"]) / args["model_version"]
        self._padding = float(parameters["max_padding"])
        self._takes_text = config["input"][0]["name"] == "text"
        self._tokenizer = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(int(parameters["max_tokens"]))
        self._session = _session(folder / "model.onnx", int(parameters["threads"]))

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Answer the requests that Triton batched."""
        if not self._takes_text:
            return self._run_tokens(requests)
        texts = [_input(request, "text").ravel() for request in requests]
        flat = [text.decode() for each in texts for text in each]
        sequences = [e.ids for e in self._tokenizer.encode_batch_fast(flat)]
        vectors = self._encode(sequences)
        ends = np.cumsum([len(each) for each in texts])[:-1]
        return [_response(rows) for rows in np.split(vectors, ends)]

    def _encode(self, sequences: Sequence[Sequence[int]]) -> NDArray[np.float32]:
        order = sorted(range(len(sequences)), key=lambda row: len(sequences[row]))
        vectors: list[Any] = [None] * len(sequences)
        for group in groups(order, [len(s) for s in sequences], self._padding):
            encoded = self._padded([sequences[row] for row in group])
            for row, vector in zip(group, encoded, strict=True):
                vectors[row] = vector
        return np.stack(vectors)

    def _padded(self, sequences: Sequence[Sequence[int]]) -> NDArray[np.float32]:
        shape = (len(sequences), max(map(len, sequences)))
        ids, mask = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
        for row, sequence in enumerate(sequences):
            ids[row, : len(sequence)] = sequence
            mask[row, : len(sequence)] = 1
        return self._run(ids, mask)

    def _run_tokens(self, requests: Sequence[Any]) -> list[Any]:
        """Run token ids as they come: Triton batches requests of one shape only."""
        ids = [_input(request, "input_ids") for request in requests]
        masks = [_input(request, "attention_mask") for request in requests]
        vectors = self._run(np.concatenate(ids), np.concatenate(masks))
        ends = np.cumsum([len(each) for each in ids])[:-1]
        return [_response(rows) for rows in np.split(vectors, ends)]

    def _run(self, ids: NDArray[np.int64], mask: NDArray[np.int64]) -> NDArray[np.float32]:
        feeds = {"input_ids": ids, "attention_mask": mask}
        vectors: NDArray[np.float32] = self._session.run(None, feeds)[0]
        return vectors


def groups(order: Sequence[int], lengths: Sequence[int], padding: float) -> list[list[int]]:
    """Cut rows, shortest first, so that no row is padded by more than this share of its length.

    Below zero every row is alone; at infinity all rows share one run.
    """
    groups: list[list[int]] = []
    for row in order:
        if groups and lengths[row] <= lengths[groups[-1][0]] * (1 + padding):
            groups[-1].append(row)
        else:
            groups.append([row])
    return groups


def _session(file: Path, threads: int) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])


def _input(request: Any, name: str) -> NDArray[Any]:
    array: NDArray[Any] = pb_utils.get_input_tensor_by_name(request, name).as_numpy()
    return array


def _response(vectors: NDArray[np.float32]) -> Any:
    return pb_utils.InferenceResponse([pb_utils.Tensor("embedding", vectors)])
