"""Load OpenVINO, where it is installed, with its telemetry shut off.

Owns the import. Must not know models.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from types import ModuleType
from typing import Any

from vecserve_server.errors import ModelError

_TELEMETRY = "openvino_telemetry"


def openvino_module() -> Any:
    """Return the module `openvino`; raises `ModelError` where it is not installed.

    Importing it starts `openvino_telemetry`, which writes an id into the home folder and sends
    events. OpenVINO does without that package where it cannot be imported; so it cannot be.
    """
    if "openvino" in sys.modules:
        return sys.modules["openvino"]
    present = sys.modules.get(_TELEMETRY)
    sys.modules[_TELEMETRY] = None  # type: ignore[assignment]
    try:
        return importlib.import_module("openvino")
    except ImportError as error:
        raise ModelError(
            f"OpenVINO cannot be imported ({error}): install vecserve[server]"
        ) from error
    finally:
        _restore(present)


def openvino_opset() -> Any:
    """Return the operators that graphs are built from."""
    openvino_module()
    return importlib.import_module("openvino.opset13")


def openvino_is_installed() -> bool:
    """Return whether models can run on OpenVINO here."""
    return importlib.util.find_spec("openvino") is not None


def _restore(present: ModuleType | None) -> None:
    if present is None:
        del sys.modules[_TELEMETRY]
    else:
        sys.modules[_TELEMETRY] = present
