"""The engines of a server.

Owns which there are and which may run a given encoder. Must not know how any of them works.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from vecserve_server.engines.engine import Engine
from vecserve_server.engines.onnxruntime.engine import onnxruntime_engine
from vecserve_server.engines.openvino.engine import openvino_engine
from vecserve_server.model_files.encoder_config import AUTO, EncoderConfig, EngineNames


@dataclass(frozen=True, slots=True)
class Engines:
    """Engines by name, in the order in which they are tried; without measurements the last wins."""

    engines: tuple[Engine, ...]

    def __getitem__(self, name: str) -> Engine:
        """Return an engine that is among `encoder_names` or `onnx_names`."""
        return next(engine for engine in self.engines if engine.name == name)

    @property
    def encoder_names(self) -> EngineNames:
        """What a text encoder's configuration may name."""
        return _names(self.engines)

    @property
    def onnx_names(self) -> EngineNames:
        """What an ONNX model's configuration may name."""
        return _names(engine for engine in self.engines if engine.runs_onnx_models)

    def wanted(self, config: EncoderConfig) -> list[str]:
        """Return the names of the engines that the configuration allows."""
        return [each.name for each in self.engines] if config.engine == AUTO else [config.engine]

    def able(self, config: EncoderConfig) -> list[Engine]:
        """Return those of the wanted engines that can run such an encoder, installed or not."""
        wanted = self.wanted(config)
        return [
            engine
            for engine in self.engines
            if engine.name in wanted
            and config.layout in engine.encoders.layouts
            and config.precision in engine.encoders.files
            and config.device in engine.encoders.devices
        ]


def shipped_engines() -> Engines:
    """Return the engines that this server knows."""
    return Engines((onnxruntime_engine(), openvino_engine()))


def _names(engines: Iterable[Engine]) -> EngineNames:
    known: Sequence[Engine] = list(engines)

    def named_by(accelerator: str | None) -> tuple[str, ...]:
        return tuple(each.name for each in known if each.accelerator == accelerator)

    return EngineNames(
        parameters=named_by(None),
        cpu_accelerators=named_by("cpu"),
        gpu_accelerators=named_by("gpu"),
        devices=frozenset().union(*(each.encoders.devices for each in known)),
    )
