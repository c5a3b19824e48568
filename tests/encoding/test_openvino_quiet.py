"""OpenVINO keeps to itself: no telemetry, no file in the home folder, no connection."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.encoding.conftest import NAME, needs_openvino

SCRIPT = """
import os, socket, subprocess, sys
from pathlib import Path

def refuse(*arguments, **options):
    os.write(2, b"TRIED TO CONNECT OR TO START A PROCESS\\n")
    os._exit(3)

for kind in ("connect", "connect_ex", "sendto"):
    setattr(socket.socket, kind, refuse)
socket.getaddrinfo = socket.create_connection = subprocess.Popen.__init__ = refuse

from vecserve_server.engines.engine import SessionSettings
from vecserve_server.engines.openvino.session import OpenVinoSession
from vecserve_server.encoding.packing import pack
import numpy as np

session = OpenVinoSession(Path(sys.argv[1]), SessionSettings(cache_folder=Path(sys.argv[2])))
[found] = session.run(pack([np.arange(8) + 1000], [[0]], (1, 16)), ["embedding"])
assert np.isfinite(found[0]).all()
assert not [name for name in sys.modules if name.startswith("openvino_telemetry")]
if sys.platform == "linux":
    own = {os.path.realpath(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd")}
    assert not [link for link in own if "socket:" in link], own
print("encoded")
"""


@needs_openvino
def test_nothing_leaves_the_process_but_the_cache(model_repository: Path, tmp_path: Path) -> None:
    home, cache = tmp_path / "home", tmp_path / "cache"
    home.mkdir()
    model = model_repository / NAME / "1" / "model.int8.xml"
    environment = os.environ | {"HOME": str(home), "TMPDIR": str(home), "XDG_CACHE_HOME": str(home)}

    run = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(model), str(cache)],
        check=False,
        capture_output=True,
        text=True,
        env=environment,
        timeout=180,
    )

    assert (run.returncode, run.stdout) == (0, "encoded\n"), run.stderr
    assert list(home.rglob("*")) == []
    assert [path.suffix for path in cache.iterdir()] == [".blob"]


@needs_openvino
def test_the_package_stays_importable_for_others() -> None:
    script = """
from vecserve_server.engines.openvino.runtime import openvino_module
openvino_module()
import sys
assert "openvino_telemetry" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=180)
