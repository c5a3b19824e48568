"""Libraries that report to their makers are told not to before they can."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from vecserve_server.telemetry import SWITCHES, turn_off, warning

ROOT = Path(__file__).parents[1]
IMPORTERS = sorted(
    path
    for folder in ("clients", "tests")
    for path in (ROOT / folder).rglob("*.py")
    if "import onnxruntime" in path.read_text("utf-8")
)


@pytest.mark.parametrize("set_before", [None, "0", "", "1"])
def test_every_switch_is_set_whatever_it_was(set_before: str | None) -> None:
    environ = {} if set_before is None else dict.fromkeys(SWITCHES, set_before)
    assert turn_off(environ, ()) == ()
    assert environ == dict.fromkeys(SWITCHES, "1")


@pytest.mark.parametrize(
    ("loaded", "environ", "early"),
    [
        (["onnxruntime"], {}, ("onnxruntime",)),
        (["onnxruntime"], {"ORT_DISABLE_TELEMETRY": "0"}, ("onnxruntime",)),
        (["onnxruntime"], {"ORT_DISABLE_TELEMETRY": "1"}, ()),
        (["onnxruntime"], {"ORT_DISABLE_TELEMETRY": "true"}, ()),
        (
            ["huggingface_hub"],
            {"HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_UPDATE_CHECK": "1"},
            (),
        ),
        (["onnxruntime", "openvino_telemetry"], {}, ("onnxruntime", "openvino_telemetry")),
    ],
)
def test_what_was_imported_too_early_is_named(
    loaded: list[str], environ: dict[str, str], early: tuple[str, ...]
) -> None:
    assert turn_off(environ, loaded) == early
    for library in early:
        assert library in warning(early)


@pytest.mark.parametrize(
    "module",
    [
        "cli.main",
        "cli.program",
        "app",
        "index.building.builder",
        "engines.onnxruntime.engine",
        "engines.onnxruntime.session",
        "importing.default_model",
        "importing.quantise.calibration",
    ],
)
def test_whatever_is_imported_first_the_switches_are_set(module: str) -> None:
    program = f"""
import importlib, os, sys
sys.modules["onnxruntime"] = None  # an import of it fails, and shows that it comes too early
try:
    importlib.import_module("vecserve_server.{module}")
except ImportError as error:
    assert not (error.name or "").startswith("vecserve_server"), error
assert os.environ["ORT_DISABLE_TELEMETRY"] == "1"
"""
    run = [sys.executable, "-c", program]
    subprocess.run(run, check=True, env={"ORT_DISABLE_TELEMETRY": "0"})


def test_a_command_says_that_something_came_first() -> None:
    program = """
import sys
sys.modules["onnxruntime"] = sys
sys.argv = ["vecserve", "check-config"]
from vecserve_server.cli.main import main
main()
"""
    run = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True, env={}
    )
    assert run.stderr.startswith("vecserve: onnxruntime came before vecserve_server")
    assert "ORT_DISABLE_TELEMETRY=1" in run.stderr


@pytest.mark.parametrize("path", IMPORTERS, ids=lambda path: path.name)
def test_tests_and_benchmarks_import_the_package_first(path: Path) -> None:
    imports = [
        node.module if isinstance(node, ast.ImportFrom) else node.names[0].name
        for node in ast.parse(path.read_text("utf-8")).body
        if isinstance(node, ast.Import | ast.ImportFrom)
    ]
    names = [name or "" for name in imports]
    if "onnxruntime" in names:
        before = names[: names.index("onnxruntime")]
        assert any(name.startswith("vecserve_server") for name in before)


def test_a_server_logs_that_something_came_first(tmp_path: Path) -> None:
    program = """
import os, sys
import onnxruntime  # quiet, but the package cannot know when the switch was set
del os.environ["ORT_DISABLE_TELEMETRY"]
sys.argv = ["vecserve", "serve", "--ready-file", "/nonexistent/folder/ready.json"]
from vecserve_server.cli.main import main
main()
"""
    environ = {"ORT_DISABLE_TELEMETRY": "1", "HOME": str(tmp_path)}
    run = subprocess.run(
        [sys.executable, "-c", program], check=False, capture_output=True, text=True, env=environ
    )
    assert run.returncode == 2
    assert "warning app: telemetry problem=" in run.stderr
    assert list(tmp_path.iterdir()) == []
