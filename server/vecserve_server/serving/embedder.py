"""Inputs to vectors, with a model that is served.

Owns the steps: check, prepare in pieces, run, and gather per-item failures. Must not know
modalities, protocols, nor which model a caller means.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from vecserve_server.domain.embedding import Embedded, EmbedOptions, Truncate
from vecserve_server.domain.inputs import Embeddable, Modality
from vecserve_server.domain.timings import Timings
from vecserve_server.domain.urgency import Urgency
from vecserve_server.domain.validation import check_count
from vecserve_server.domain.vectors import Encodings, Vectors
from vecserve_server.encoding.preprocessor import Preparation, Prepared, Preprocessor
from vecserve_server.errors import FieldPath, InvalidArgument, RequestError, Unsupported
from vecserve_server.model_files.encoder_config import EncoderConfig
from vecserve_server.observability.metrics import Metrics, length_label
from vecserve_server.serving.model_versions import ServedModel
from vecserve_server.settings.settings import LimitSettings

MAX_PROMPT_BYTES = 4096


@dataclass(slots=True, kw_only=True)
class _Call:
    """One call: what it asked for, and its results while the pieces come in."""

    served: ServedModel
    inputs: Sequence[Embeddable | RequestError]
    names: Sequence[FieldPath]
    preparation: Preparation
    normalise: bool
    urgency: Urgency
    vectors: Vectors
    tokens: list[int]
    total_tokens: list[int]
    errors: dict[int, RequestError] = field(default_factory=dict)
    timings: Timings | None = None
    """None until a piece is done."""


@dataclass(frozen=True, slots=True)
class _Piece:
    """Inputs of one modality that are prepared together, and their places in the call."""

    preprocessor: Preprocessor
    places: Sequence[int]
    items: Sequence[Embeddable]


class Embedder:
    """Embed inputs with any served model. Loop only."""

    def __init__(
        self, *, limits: LimitSettings, clock_ns: Callable[[], int], metrics: Metrics
    ) -> None:
        self._limits = limits
        self._clock_ns = clock_ns
        self._metrics = metrics

    @property
    def max_inputs(self) -> int:
        """Inputs that one call may have."""
        return self._limits.max_items_per_call

    async def embed(
        self,
        served: ServedModel,
        inputs: Sequence[Embeddable | RequestError],
        options: EmbedOptions,
        *,
        names: Sequence[FieldPath] | None = None,
        urgency: Urgency | None = None,
    ) -> Embedded:
        """Embed a batch; a bad input fails alone, as does an item that is an error already.

        `names` are the fields that the inputs stand in. The model stays open meanwhile.

        Raises InvalidArgument for an option or the batch's size, and what `Compute` raises.
        """
        check_count("inputs", len(inputs), limit=self.max_inputs)
        urgency = urgency or Urgency()
        # Once for the whole call, and before anything is spent on it: an input has a token at
        # least.
        served.compute.admit(len(inputs), cost=len(inputs), urgency=urgency)
        started_ns = self._clock_ns()
        call = _begin(served, inputs, options, names, urgency)
        good = _good_inputs(call)
        with served.leases.hold():
            await _all_or_none([self._embed_piece(call, piece) for piece in _cut(call, good)])
        if good:
            self._metrics.embed_seconds.labels(
                model=served.text.ref.name, tokens=length_label(max(call.tokens))
            ).observe((self._clock_ns() - started_ns) / 1e9)
        return Embedded(
            model=served.text.ref,
            vectors=call.vectors,
            tokens=call.tokens,
            total_tokens=call.total_tokens,
            errors=call.errors,
            timings=call.timings or Timings(),
        )

    async def _embed_piece(self, call: _Call, piece: _Piece) -> None:
        started_ns = self._clock_ns()
        prepared = await piece.preprocessor.prepare(
            piece.items, call.preparation, deadline_ns=call.urgency.deadline_ns
        )
        prepare_ns = self._clock_ns() - started_ns
        fitting = _fitting(call, zip(piece.places, prepared, strict=True))
        if fitting:
            encoded = await call.served.compute.submit(
                [item.sequence for item in fitting.values()], call.urgency, admitted=True
            )
            call.vectors[list(fitting)] = finish(
                encoded.result, dim=call.vectors.shape[1], normalise=call.normalise
            )
            spent = encoded.timings
            timings = Timings(spent.queue_ns, prepare_ns, spent.compute_infer_ns)
        else:
            timings = Timings(compute_input_ns=prepare_ns)
        call.timings = timings.longest(call.timings) if call.timings else timings


def _begin(
    served: ServedModel,
    inputs: Sequence[Embeddable | RequestError],
    options: EmbedOptions,
    names: Sequence[FieldPath] | None,
    urgency: Urgency,
) -> _Call:
    config = served.text.config
    count = len(inputs)
    return _Call(
        served=served,
        inputs=inputs,
        names=names or [_name(index, item) for index, item in enumerate(inputs)],
        preparation=Preparation(
            prompt=resolve_prompt(options, config), truncate=options.truncate or _side(config)
        ),
        normalise=_normalises(options, config),
        urgency=urgency,
        vectors=np.zeros((count, resolve_dimensions(options, config.dim)), np.float32),
        tokens=[0] * count,
        total_tokens=[0] * count,
    )


def _name(index: int, item: Embeddable | RequestError) -> FieldPath:
    if isinstance(item, RequestError):
        return ("inputs", index)
    return ("inputs", index, item.modality)


def _good_inputs(call: _Call) -> dict[Modality, dict[int, Embeddable]]:
    """Find the inputs that can be prepared, by modality; note what is wrong with the others."""
    good: dict[Modality, dict[int, Embeddable]] = {}
    for index, item in enumerate(call.inputs):
        try:
            if isinstance(item, RequestError):
                raise item
            _preprocessor(call.served, call.names[index], item).check(call.names[index], item)
        except RequestError as error:
            call.errors[index] = error
        else:
            good.setdefault(item.modality, {})[index] = item
    return good


def _preprocessor(served: ServedModel, name: FieldPath, item: Embeddable) -> Preprocessor:
    """Find what prepares an input: the one place where a model refuses a modality."""
    found = served.preprocessors.get(item.modality)
    if found is None:
        takes = " and ".join(served.preprocessors)
        raise Unsupported(f"model {served.text.ref.name!r} takes {takes} only", field=name)
    return found


def _cut(call: _Call, good: Mapping[Modality, Mapping[int, Embeddable]]) -> list[_Piece]:
    cut: list[_Piece] = []
    for modality, items in good.items():
        preprocessor = call.served.preprocessors[modality]
        places, values = list(items), list(items.values())
        pieces = preprocessor.cut(values, call.preparation)
        if len(pieces) == 1:
            cut.append(_Piece(preprocessor, places, values))
            continue
        cut += [
            _Piece(preprocessor, [places[i] for i in piece], [values[i] for i in piece])
            for piece in pieces
        ]
    return cut


def _fitting(call: _Call, prepared: Iterable[tuple[int, Prepared]]) -> dict[int, Prepared]:
    fitting = {}
    for index, item in prepared:
        call.total_tokens[index] = item.total_tokens
        if item.problem:
            call.errors[index] = InvalidArgument(call.names[index], item.problem)
            continue
        call.tokens[index] = len(item.sequence)
        fitting[index] = item
    return fitting


def _side(config: EncoderConfig) -> Truncate:
    return "left" if config.truncation_side == "left" else "right"


def resolve_prompt(options: EmbedOptions, config: EncoderConfig) -> str:
    """Find the text to put before each input; the model's default where none is asked for."""
    if len(options.prompt_text.encode()) > MAX_PROMPT_BYTES:
        raise InvalidArgument(
            (options.field, "prompt_text"),
            f"has {len(options.prompt_text.encode())} bytes; the limit is {MAX_PROMPT_BYTES}",
        )
    if options.prompt_text:
        return options.prompt_text
    name = options.prompt_name or config.default_prompt
    if name and name not in config.prompts:
        known = ", ".join(sorted(config.prompts)) or "none"
        raise InvalidArgument(
            (options.field, "prompt_name"), f"{name!r} is unknown; the model has {known}"
        )
    return config.prompts[name] if name else ""


def resolve_dimensions(options: EmbedOptions, model_dim: int) -> int:
    """Find how many components to keep; refuse what the graph cannot give."""
    if options.dimensions > model_dim:
        raise InvalidArgument(
            (options.field, "dimensions"), f"is {options.dimensions}; the model has {model_dim}"
        )
    return options.dimensions or model_dim


def finish(encodings: Encodings, *, dim: int, normalise: bool) -> Vectors:
    """Keep the first `dim` components, of length 1 or as long as pooling made them."""
    if normalise:
        return shorten(encodings.vectors, dim)
    return encodings.vectors[:, :dim] * encodings.norms[:, None]


def shorten(vectors: Vectors, dim: int) -> Vectors:
    """Keep the first `dim` components of unit vectors and scale back to length 1 (Matryoshka)."""
    if vectors.shape[1] == dim:
        return vectors
    short = vectors[:, :dim]
    norms: Vectors = np.linalg.norm(short, axis=1, keepdims=True)
    unit: Vectors = (short / np.maximum(norms, 1e-12)).astype(np.float32)
    return unit


def _normalises(options: EmbedOptions, config: EncoderConfig) -> bool:
    return config.normalise if options.normalise is None else options.normalise


async def _all_or_none(pieces: Sequence[Coroutine[Any, Any, None]]) -> None:
    """Run the pieces side by side; the first failure cancels the others."""
    if len(pieces) == 1:
        await pieces[0]
        return
    try:
        async with asyncio.TaskGroup() as group:
            for piece in pieces:
                group.create_task(piece)
    except ExceptionGroup as failures:
        raise failures.exceptions[0] from None
