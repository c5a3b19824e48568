"""What the documents and the examples show runs as it stands."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.server_process import ServerProcess
from vecserve_client import AsyncClient, Client
from vecserve_client.admin import Admin
from vecserve_client.aio_admin import AsyncAdmin
from vecserve_client.searches import SearchOptions

ROOT = Path(__file__).parents[2]
EXAMPLES = sorted((ROOT / "clients" / "examples").glob("*.py"))
PAGE = (ROOT / "docs" / "PYTHON.md").read_text(encoding="utf-8")
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
DEFAULT = "127.0.0.1:8001"


@pytest.fixture
def empty(client: Client) -> Iterator[Client]:
    yield client
    for collection in client.list_collections():
        client.drop_collection(collection.name)


def test_the_page_about_python_runs(
    server: ServerProcess, empty: Client, capsys: pytest.CaptureFixture[str]
) -> None:
    blocks = [block.replace(DEFAULT, server.target) for block in BLOCK.findall(PAGE)]
    assert len(blocks) >= 7
    names: dict[str, object] = {}
    exec(blocks[0], names)
    names["client"] = empty
    for block in blocks[1:]:
        exec(block, names)
    assert "Acme" in capsys.readouterr().out


def test_the_quick_example_of_the_front_page_runs(server: ServerProcess, empty: Client) -> None:
    assert empty.health() == "SERVING"
    blocks = BLOCK.findall((ROOT / "README.md").read_text(encoding="utf-8"))
    (quick,) = [block for block in blocks if "vecserve_client" in block]
    exec(quick.replace(DEFAULT, server.target), {})


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_runs_and_is_linked(server: ServerProcess, empty: Client, example: Path) -> None:
    assert f"clients/examples/{example.name}" in PAGE
    args = [server.target]
    if "COLLECTION" in example.read_text(encoding="utf-8"):
        empty.create_collection("asked")
        empty.upsert("asked", [{"id": "tea", "text": "hot tea"}])
        args = ["asked", server.target]
    done = subprocess.run(
        [sys.executable, str(example), *args],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout


@pytest.mark.parametrize(("one", "other"), [(Client, AsyncClient), (Admin, AsyncAdmin)])
def test_every_call_of_both_clients_is_documented(one: type, other: type) -> None:
    calls = {name: getattr(one, name) for name in vars(one) if not name.startswith("_")}
    assert set(calls) == {name for name in vars(other) if not name.startswith("_")}
    for name, call in calls.items():
        documented = re.search(rf"`{name}\((.*?)\)`", PAGE)
        assert documented, name
        theirs = inspect.signature(getattr(other, name)).parameters
        assert list(inspect.signature(call).parameters) == list(theirs)
        missing = [
            parameter
            for parameter in list(inspect.signature(call).parameters)[1:]
            if parameter not in ("timeout_s", "kind", "error", "trace")
            and parameter not in documented[1]
        ]
        assert missing == [], name


def test_every_option_of_a_search_is_documented() -> None:
    missing = [name for name in SearchOptions.__annotations__ if f"| `{name}` |" not in PAGE]
    assert missing == []
