"""Text encoders as models that come and go.

Owns the way from an encoder's files to a version that answers both protocols. Must not know when
it is loaded or retired. Loop only.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from functools import partial
from typing import TypeAlias

from vecserve.inference import model_config_pb2
from vecserve_server.domain.vectors import Encodings, TokenIds
from vecserve_server.encoding.encoder import OnRun
from vecserve_server.encoding.text_model import TextModel, TextModelLoader
from vecserve_server.encoding.text_preprocessor import TextPreprocessor
from vecserve_server.encoding.tokenising import Tokenising
from vecserve_server.engines.registry import Engines
from vecserve_server.model_files.encoder_config import BACKEND
from vecserve_server.observability.metrics import Metrics
from vecserve_server.observability.model_statistics import ModelStatistics
from vecserve_server.scheduling.compute import Compute
from vecserve_server.scheduling.dispatcher import OnBatch
from vecserve_server.serving.embedder import Embedder
from vecserve_server.serving.model_versions import LoadedVersion, ServedModel, VersionSource
from vecserve_server.serving.text_model import TextInference, unlisted_inputs

StartCompute: TypeAlias = Callable[[TextModel, OnBatch], Compute[Sequence[TokenIds], Encodings]]


class TextLoader:
    """The `VersionLoader` of text encoders."""

    def __init__(
        self,
        *,
        engines: Engines,
        default_instances: int,
        precision: str | None,
        start_compute: StartCompute,
        embedder: Embedder,
        tokenising: Tokenising,
        max_text_bytes: int,
        metrics: Metrics,
        clock_ns: Callable[[], int],
        load_pool: Executor,
    ) -> None:
        """Load in `load_pool`; `precision` overrides the configured one unless None."""
        self._engines = engines
        self._default_instances = default_instances
        self._precision = precision
        self._start_compute = start_compute
        self._embedder = embedder
        self._tokenising = tokenising
        self._max_text_bytes = max_text_bytes
        self._metrics = metrics
        self._clock_ns = clock_ns
        self._load_pool = load_pool

    def accepts(self, proto: model_config_pb2.ModelConfig) -> bool:
        """See `VersionLoader`."""
        return bool(proto.backend == BACKEND)

    async def load(self, source: VersionSource, statistics: ModelStatistics) -> LoadedVersion:
        """See `VersionLoader`."""
        loader = TextModelLoader(
            source.root, engines=self._engines, default_instances=self._default_instances
        )
        work = partial(
            loader.load,
            source.name,
            source.version,
            proto=source.proto,
            precision=self._precision,
            on_run=self._fill(source.name),
        )
        text = await asyncio.get_running_loop().run_in_executor(self._load_pool, work)
        preprocessor = TextPreprocessor(
            tokenizer=text.tokenizer,
            config=text.config,
            tokenising=self._tokenising,
            max_text_bytes=self._max_text_bytes,
        )
        served = ServedModel(
            text=text,
            compute=self._start_compute(text, statistics.executed),
            preprocessors={preprocessor.modality: preprocessor},
        )
        infer = TextInference(served=served, embedder=self._embedder, clock_ns=self._clock_ns).infer
        return LoadedVersion(
            name=text.ref.name,
            version=text.ref.version,
            config=text.proto,
            unlisted_inputs=unlisted_inputs(text.proto),
            infer=infer,
            digest=_digest(text),
            queued=lambda: served.compute.queued,
            close=partial(_close, served),
            text=served,
            leases=served.leases,
        )

    def _fill(self, name: str) -> OnRun:
        histogram = self._metrics.token_fill.labels(model=name)
        return lambda used, computed: histogram.observe(used / computed)


def _digest(text: TextModel) -> str:
    """Hash all that an answer depends on: the weights, and how they are used."""
    config = text.proto.SerializeToString(deterministic=True)
    precision = text.config.precision.encode()  # a setting may override the configuration's
    return hashlib.sha256(text.ref.digest.encode() + precision + config).hexdigest()


async def _close(served: ServedModel, timeout_s: float) -> bool:
    ended = await served.compute.close(timeout_s)
    if ended:  # an engine must not be freed under a run
        served.text.encoder.close()
    return ended
