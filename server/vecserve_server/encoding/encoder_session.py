"""A session whose graph is a text encoder's.

Owns the names of an encoder's tensors, and what its graph must look like. Must not know which
engine runs, nor queues or texts.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from vecserve_server.domain.shapes import Shape
from vecserve_server.domain.vectors import Encodings
from vecserve_server.engines.engine import Feeds, Session
from vecserve_server.errors import EngineError, ModelError, RequestError
from vecserve_server.model_files.encoder_config import PACKED

TYPE_IDS = "token_type_ids"
_PACKED_INPUTS = frozenset({"input_ids", "position_ids", "segment_ids", "seqs"})
_PADDED_INPUTS = frozenset({"input_ids", "attention_mask"})
_EMBEDDING, _NORM = "embedding", "norm"
_OUTPUTS = (_EMBEDDING, _NORM)


class EncoderSession:
    """Runs batches that are laid out for the graph. Synchronous; any thread."""

    def __init__(self, session: Session, model_file: Path) -> None:
        """Take over a session; raises `ModelError` where its graph is no text encoder's."""
        graph = session.graph
        self._session = session
        self._model_file = model_file
        self.inputs = frozenset(name for name, each in graph.inputs.items() if not each.optional)
        """Names of the inputs."""
        shapes = {name: list(tensor.shape) for name, tensor in graph.outputs.items()}
        dim = (shapes.get(_EMBEDDING) or [-1])[-1]
        if dim < 0 or _NORM not in shapes:
            raise ModelError(
                f"{model_file}: the outputs must be {_EMBEDDING} [N, dim] and {_NORM} [N]; "
                f"found {shapes}"
            )
        self.dim = dim
        """Components of one vector."""

    @property
    def takes_packed_rows(self) -> bool:
        """Whether sequences share rows."""
        return self.inputs == _PACKED_INPUTS

    def check_layout(self, layout: str) -> None:
        """Raise `ModelError` where the graph has another layout."""
        is_padded = self.inputs - {TYPE_IDS} == _PADDED_INPUTS
        if not (self.takes_packed_rows if layout == PACKED else is_padded):
            raise ModelError(
                f"{self._model_file}: has the inputs {', '.join(sorted(self.inputs))}, "
                f"which is not the layout {layout}"
            )

    def run(self, feeds: Feeds) -> Encodings:
        """Compute one batch; the arrays are the caller's own."""
        try:
            vectors, norms = self._session.run(feeds, _OUTPUTS)
        except RequestError as error:  # the feeds are the server's, whoever sent the texts
            raise EngineError(str(error)) from error
        return Encodings(vectors, norms)

    def warm_up(self, batches: Sequence[Feeds]) -> None:
        """See `Session`."""
        self._session.warm_up(batches)

    def specialise(self, shapes: Sequence[Shape]) -> None:
        """See `Session`."""
        self._session.specialise(shapes)

    def await_specialised(self, timeout_s: float) -> bool:
        """See `Session`."""
        return self._session.await_specialised(timeout_s)

    def close(self) -> None:
        """See `Session`."""
        self._session.close()
