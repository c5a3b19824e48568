"""An engine of a few lines: NumPy over a table of token vectors."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vecserve_server.domain.shapes import Shape
from vecserve_server.engines.engine import EncoderSupport, Engine, Feeds, SessionSettings
from vecserve_server.engines.time_limit import Stop
from vecserve_server.model_files.datatypes import from_onnx
from vecserve_server.model_files.graph import Graph, GraphTensor

TABLE = "table.npy"


class ToySession:
    """Implement `Session`: a text's vector is the mean of its tokens' vectors."""

    def __init__(self, model_file: Path, settings: SessionSettings) -> None:
        self._table: NDArray[np.float32] = np.load(model_file)
        self.closed = False

    @property
    def graph(self) -> Graph:
        names, dim = ("input_ids", "attention_mask"), self._table.shape[1]
        return Graph(
            inputs={name: tensor(name, "int64", -1, -1) for name in names},
            outputs={
                "embedding": tensor("embedding", "float", -1, dim),
                "norm": tensor("norm", "float", -1),
            },
        )

    def run(
        self, feeds: Feeds, outputs: Sequence[str], stop: Stop | None = None
    ) -> list[NDArray[Any]]:
        mask = feeds["attention_mask"][:, :, None]
        means = (self._table[feeds["input_ids"]] * mask).sum(axis=1) / mask.sum(axis=1)
        norms = np.linalg.norm(means, axis=1)
        found = {"embedding": means / norms[:, None], "norm": norms}
        return [found[name].astype(np.float32) for name in outputs]

    def warm_up(self, batches: Sequence[Feeds]) -> None:
        for feeds in batches:
            self.run(feeds, ["embedding"])

    def specialise(self, shapes: Sequence[Shape]) -> None:
        pass

    def await_specialised(self, timeout_s: float) -> bool:
        return True

    def close(self) -> None:
        self.closed = True


def tensor(name: str, element: str, *shape: int) -> GraphTensor:
    datatype = from_onnx(element)
    assert datatype is not None
    return GraphTensor(name=name, datatype=datatype, shape=shape)


def toy_engine() -> Engine:
    return Engine(
        name="toy",
        is_installed=lambda: True,
        version=lambda: "1",
        open=ToySession,
        encoders=EncoderSupport(layouts=frozenset({"padded"}), files={"fp32": (TABLE,)}),
    )
