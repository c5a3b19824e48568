"""perf_analyzer and NVIDIA's tritonserver, unpacked from their wheels into one folder.

Owns what lies where in the wheels and the environment that each program runs in. Nothing is
installed; the folder can be deleted. Must not know what the programs are asked.
"""

from __future__ import annotations

import os
import stat
import sys
import sysconfig
import venv
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

DEFAULT_FOLDER: Final = Path(".cache/triton/tools")
"""Where `make tools-triton` unpacks them, in a checkout."""

_CLIENT_MEMBER: Final = "tritonclient-2.51.0.data/data/bin/perf_analyzer"
_SERVER_MEMBERS: Final = ("pytriton/tritonserver/", "nvidia_pytriton.libs/")
_LINKS: Final = {"libb64.so.0d": "libb64-", "libcudart.so.12": "libcudart-"}
"""What perf_analyzer asks the loader for, and how the server's wheel begins the name of it."""
_UNPACKED: Final = ".unpacked"


class ToolsMissing(Exception):
    """The programs cannot be run here, and why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tools:
    """The unpacked programs."""

    folder: Path

    @property
    def perf_analyzer(self) -> Path:
        """The load generator."""
        return self.folder / "bin" / "perf_analyzer"

    @property
    def tritonserver(self) -> Path:
        """The server."""
        return self.folder / "pytriton" / "tritonserver" / "bin" / "tritonserver"

    @property
    def backends(self) -> Path:
        """The folder of the server's backends."""
        return self.folder / "pytriton" / "tritonserver" / "backends"

    def perf_analyzer_environ(self) -> Mapping[str, str]:
        """Environment of perf_analyzer."""
        return os.environ | {"LD_LIBRARY_PATH": str(self.folder / "lib")}

    def tritonserver_environ(self) -> Mapping[str, str]:
        """Environment of tritonserver: the Python backend embeds the first python3 of PATH.

        Raises ToolsMissing where this interpreter cannot be embedded.
        """
        if not (self.folder / "python").exists():
            raise ToolsMissing("Triton's Python backend needs numpy 1, thus Python 3.11 or 3.12")
        path = f"{self.folder / 'python' / 'bin'}{os.pathsep}{os.environ.get('PATH', '')}"
        kept = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
        return kept | {
            "PATH": path,
            "LD_LIBRARY_PATH": str(_libpython().parent),
            "TOKENIZERS_PARALLELISM": "false",
            "ORT_DISABLE_TELEMETRY": "1",
        }


def find(folder: Path = DEFAULT_FOLDER) -> Tools:
    """Return the unpacked programs; raises ToolsMissing where they were not fetched."""
    if not (folder / _UNPACKED).exists():
        raise ToolsMissing("perf_analyzer and tritonserver are not there; run `make tools-triton`")
    return Tools(folder=folder.resolve())


def unpack(wheels: Path, folder: Path) -> Tools:
    """Unpack the wheels of requirements/triton.txt; raises ToolsMissing where one is absent."""
    folder = folder.resolve()
    tools = Tools(folder=folder)
    folder.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(_wheel(wheels, "tritonclient")) as archive:
        tools.perf_analyzer.parent.mkdir(exist_ok=True)
        tools.perf_analyzer.write_bytes(archive.read(_CLIENT_MEMBER))
    with zipfile.ZipFile(_wheel(wheels, "nvidia_pytriton")) as archive:
        archive.extractall(folder, [n for n in archive.namelist() if n.startswith(_SERVER_MEMBERS)])
    stub = _place_stub(tools)
    for program in (tools.perf_analyzer, tools.tritonserver, stub):
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
    _link_libraries(folder)
    if list(wheels.glob("numpy-*.whl")):
        _make_python(folder / "python", _wheel(wheels, "numpy"))
    (folder / _UNPACKED).touch()
    return tools


def _wheel(wheels: Path, name: str) -> Path:
    found = sorted(wheels.glob(f"{name}-*.whl"))
    if len(found) != 1:
        raise ToolsMissing(f"{wheels}: one wheel of {name} is expected, {len(found)} are there")
    return found[0]


def _place_stub(tools: Tools) -> Path:
    """Give the Python backend the stub process for this version of Python."""
    name = "triton_python_backend_stub"
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    stub = tools.backends / "python" / name
    stub.write_bytes((tools.backends.parent / "python_backend_stubs" / version / name).read_bytes())
    return stub


def _link_libraries(folder: Path) -> None:
    (folder / "lib").mkdir(exist_ok=True)
    for name, start in _LINKS.items():
        (target,) = (folder / "nvidia_pytriton.libs").glob(f"{start}*")
        link = folder / "lib" / name
        link.unlink(missing_ok=True)
        link.symlink_to(Path("..") / target.parent.name / target.name)


def _make_python(folder: Path, numpy_wheel: Path) -> None:
    """Make the backend's Python: an older numpy before this interpreter's own packages.

    So both servers run the same ONNX Runtime and the same tokenizer.
    """
    venv.create(folder, symlinks=True, clear=True)
    (site,) = folder.glob("lib/python3.*/site-packages")
    with zipfile.ZipFile(numpy_wheel) as archive:
        archive.extractall(site)
    (site / "benchmarked.pth").write_text(sysconfig.get_path("platlib") + "\n", encoding="utf-8")


def _libpython() -> Path:
    folder, name = sysconfig.get_config_vars("LIBDIR", "INSTSONAME")
    library: Path = Path(folder) / name
    if library.suffix == ".a" or not library.exists():
        raise ToolsMissing(
            "Triton's Python backend embeds this Python, which has no shared libpython; use one "
            "that was built with --enable-shared"
        )
    return library
