"""What libraries would tell their makers, and how it is kept from them.

Owns which libraries report and how each is told not to. Must not import them. The package calls
`turn_off` before any of its modules is imported, so that no command, child process or test can come
first: ONNX Runtime looks at the environment once, while it is being imported, and starts an
uploader then; its own `disable_telemetry_events` comes after that. OpenVINO cannot be told by the
environment; `engines/openvino/runtime.py` imports it without the package that reports.
"""

from __future__ import annotations

from collections.abc import Container, Mapping, MutableMapping
from types import MappingProxyType

SWITCHES: Mapping[str, str] = MappingProxyType(
    {
        "ORT_DISABLE_TELEMETRY": "onnxruntime",
        "HF_HUB_DISABLE_TELEMETRY": "huggingface_hub",
        "HF_HUB_DISABLE_UPDATE_CHECK": "huggingface_hub",
    }
)
"""The environment variables that libraries look at when they are imported."""

_WITHOUT_SWITCH = ("openvino_telemetry",)
_SET = frozenset({"1", "true", "yes", "on"})


def turn_off(environ: MutableMapping[str, str], loaded: Container[str]) -> tuple[str, ...]:
    """Switch reports off for this process and its children, whatever was set before.

    `loaded` holds the names of the modules that were imported already. Returns the libraries among
    them that may report, in order.
    """
    early = {
        library
        for switch, library in SWITCHES.items()
        if library in loaded and environ.get(switch, "").lower() not in _SET
    }
    early.update(library for library in _WITHOUT_SWITCH if library in loaded)
    environ.update(dict.fromkeys(SWITCHES, "1"))
    return tuple(sorted(early))


def warning(libraries: tuple[str, ...]) -> str:
    """Say in one line what to do about libraries that were imported too early."""
    names = " and ".join(libraries)
    switches = " ".join(f"{switch}=1" for switch in SWITCHES)
    return (
        f"{names} came before vecserve_server in this process and may report to its maker: "
        f"import vecserve_server first, or set {switches} in the environment"
    )
