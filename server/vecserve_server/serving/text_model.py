"""A text encoder as the inference protocol sees it.

Owns the mapping between tensors and the embedding use case. Must not know protocols.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tritonclient.grpc import model_config_pb2

from vecserve_server.domain.embedding import EmbedOptions
from vecserve_server.domain.inputs import Text
from vecserve_server.domain.timings import Timings
from vecserve_server.domain.urgency import Urgency
from vecserve_server.domain.vectors import TokenIds
from vecserve_server.errors import InvalidArgument
from vecserve_server.serving.catalog import ServedModel
from vecserve_server.serving.embedder import Embedder, finish
from vecserve_server.serving.tensor_model import TensorReply, TensorRequest, Tensors

TEXT, TOKENS, MASK, OUTPUT = "text", "input_ids", "attention_mask", "embedding"


class TextTensorModel:
    """A served text encoder: `text`, or `input_ids` with `attention_mask`, to `embedding`.

    It is a TensorModel. Loop only.
    """

    def __init__(
        self, *, served: ServedModel, embedder: Embedder, clock_ns: Callable[[], int]
    ) -> None:
        self._served = served
        self._embedder = embedder
        self._clock_ns = clock_ns
        listed = {tensor.name for tensor in served.text.proto.input}
        self._unlisted = tuple(
            model_config_pb2.ModelInput(
                name=name, data_type=model_config_pb2.TYPE_INT64, dims=[-1], optional=True
            )
            for name in (TOKENS, MASK)
            if name not in listed
        )

    @property
    def name(self) -> str:
        """Name of the model."""
        return self._served.text.ref.name

    @property
    def version(self) -> str:
        """Version, a decimal number."""
        return self._served.text.ref.version

    @property
    def config(self) -> model_config_pb2.ModelConfig:
        """The configuration in force."""
        return self._served.text.proto

    @property
    def unlisted_inputs(self) -> Sequence[model_config_pb2.ModelInput]:
        """See `TensorModel`: token ids are taken whether they are listed or not."""
        return self._unlisted

    @property
    def labels(self) -> Mapping[str, Sequence[str]]:
        """See `TensorModel`: vectors have no classes."""
        return {}

    async def infer(self, request: TensorRequest) -> TensorReply:
        """Embed texts, or token ids; raises InvalidArgument that names the tensor at fault."""
        names = set(request.inputs)
        if names == {TEXT}:
            return await self._embed(request)
        if names in ({TOKENS, MASK}, {TOKENS}):
            return await self._embed_tokens(request)
        raise InvalidArgument(
            "inputs",
            f"are {', '.join(sorted(request.inputs)) or 'empty'}; {TEXT!r} alone, or {TOKENS!r} "
            f"with {MASK!r}, are expected",
        )

    async def _embed(self, request: TensorRequest) -> TensorReply:
        texts = _texts(request.inputs[TEXT])
        embedded = await self._embedder.embed(
            self._served,
            [Text(text) for text in texts],
            EmbedOptions(),
            names=[(f"input {TEXT!r}", index) for index in range(len(texts))],
            urgency=Urgency(
                priority=request.priority,
                deadline_ns=request.deadline_ns,
                start_by_ns=self._start_by_ns(request),
            ),
        )
        for error in embedded.errors.values():
            raise error
        return TensorReply(
            outputs={OUTPUT: embedded.vectors},
            times=embedded.timings,
        )

    async def _embed_tokens(self, request: TensorRequest) -> TensorReply:
        sequences = self._sequences(request.inputs)
        encoded = await self._served.batcher.submit(
            sequences,
            priority=request.priority,
            deadline_ns=request.deadline_ns,
            start_by_ns=self._start_by_ns(request),
        )
        config = self._served.text.config
        vectors = finish(encoded.encodings, dim=config.dim, normalise=config.normalise)
        return TensorReply(
            outputs={OUTPUT: vectors},
            times=Timings(
                queue_ns=encoded.queue_us * 1000, compute_infer_ns=encoded.encode_us * 1000
            ),
        )

    def _start_by_ns(self, request: TensorRequest) -> int | None:
        """Return when the request's timeout ends; tokenising counts as waiting."""
        if not request.timeout_us:
            return None
        return self._clock_ns() + request.timeout_us * 1000

    def _sequences(self, inputs: Tensors) -> list[TokenIds]:
        # A copy: what lies in shared memory may change after it was checked.
        tokens = inputs[TOKENS].copy()
        mask = inputs.get(MASK, np.ones_like(tokens))
        _check_pair(tokens, mask)
        vocabulary = self._served.text.tokenizer.vocabulary_size
        if tokens.size and not 0 <= tokens.min() <= tokens.max() < vocabulary:
            raise InvalidArgument(f"input {TOKENS!r}", f"holds ids outside 0 to {vocabulary - 1}")
        sequences = [
            row[kept != 0].astype(np.int64) for row, kept in zip(tokens, mask, strict=True)
        ]
        limit = self._served.text.config.max_tokens
        for index, sequence in enumerate(sequences):
            if not 1 <= len(sequence) <= limit:
                raise InvalidArgument(
                    f"input {TOKENS!r}[{index}]",
                    f"has {len(sequence)} tokens; 1 to {limit} are allowed",
                )
        if not sequences:
            raise InvalidArgument(f"input {TOKENS!r}", "has no rows")
        return sequences


def _texts(tensor: NDArray[Any]) -> list[str]:
    if tensor.dtype != object or tensor.ndim not in (1, 2) or tensor.shape[1:] not in ((), (1,)):
        raise InvalidArgument(
            f"input {TEXT!r}", f"must be BYTES of the shape [N, 1], not {list(tensor.shape)}"
        )
    texts = []
    for index, element in enumerate(tensor.ravel()):
        try:
            texts.append(element.decode())
        except UnicodeDecodeError:
            raise InvalidArgument(f"input {TEXT!r}[{index}]", "is not valid UTF-8") from None
    return texts


def _check_pair(tokens: NDArray[Any], mask: NDArray[Any]) -> None:
    for name, tensor in ((TOKENS, tokens), (MASK, mask)):
        if tensor.dtype.kind not in "iu" or tensor.ndim != 2:
            raise InvalidArgument(f"input {name!r}", "must be INT64 of the shape [N, T]")
    if mask.shape != tokens.shape:
        raise InvalidArgument(
            f"input {MASK!r}",
            f"has the shape {list(mask.shape)}; {TOKENS!r} has {list(tokens.shape)}",
        )
