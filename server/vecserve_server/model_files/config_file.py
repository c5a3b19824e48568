"""Read a `config.pbtxt`, written in Triton's schema, for a model of any kind.

Owns the reading, and how a field is refused. Must not know which fields a kind of model may set.
"""

from __future__ import annotations

from pathlib import Path

from google.protobuf import text_format

from vecserve.inference import model_config_pb2
from vecserve_server.domain.names import MODEL_CONFIG_FILE
from vecserve_server.errors import ModelError

MAX_INSTANCES = 256


def read_config_file(path: Path) -> model_config_pb2.ModelConfig:
    """Parse the file; raises `ModelError` where it is missing or not a `ModelConfig`."""
    proto = model_config_pb2.ModelConfig()
    try:
        text_format.Parse(path.read_text("utf-8-sig"), proto)
    except FileNotFoundError as error:
        raise ModelError(f"{path} is missing") from error
    except (text_format.ParseError, UnicodeDecodeError) as error:
        raise ModelError(f"{path}: {error}") from error
    return proto


def named(proto: model_config_pb2.ModelConfig, name: str) -> model_config_pb2.ModelConfig:
    """Give the configuration its model's name; raises `ModelError` where it has another."""
    if proto.name not in ("", name):
        raise ModelError(
            f'{name}/{MODEL_CONFIG_FILE}: name is "{proto.name}", the folder is "{name}"'
        )
    proto.name = name
    return proto


def refused(proto: model_config_pb2.ModelConfig, field: str, problem: str) -> ModelError:
    """Return the error that names the model, the field and the problem."""
    return ModelError(f"{proto.name or '(unnamed)'}/{MODEL_CONFIG_FILE}: {field} {problem}")
