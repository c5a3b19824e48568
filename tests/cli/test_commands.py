"""What each command prints, and how it ends."""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc
import pytest

from tests.client.fake_server import FakeServer, fail
from vecserve.v1 import search_pb2
from vecserve_client import filters
from vecserve_server import __version__

Vecserve = Callable[..., Any]

NOBODY = "127.0.0.1:1"


@pytest.fixture
def online(vecserve: Vecserve, target: str) -> Vecserve:
    return lambda *args: vecserve(*args, "--server", target)


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(f'{{"id": "r{i}", "text": "text {i}"}}\n' for i in range(30)))
    return path


def test_no_command_prints_the_help(vecserve: Vecserve) -> None:
    outcome = vecserve()
    assert outcome.code == 2
    assert "demo" in outcome.out
    assert outcome.err == ""


def test_the_version_is_printed(vecserve: Vecserve) -> None:
    outcome = vecserve("--version")
    assert (outcome.code, outcome.out) == (0, f"vecserve {__version__}\n")


@pytest.mark.parametrize(
    "args",
    [
        ["nonsense"],
        ["search"],
        ["search", "docs", "q", "-k", "0"],
        ["index", "docs", "no-such-file.jsonl"],
        ["serve", "--config", "no-such-file.toml"],
        ["serve", "--port", "99999"],
        ["models", "list", "--model-repository", "no-such-folder"],
        ["models", "add", "no-such-folder", "--name", "m"],
    ],
)
def test_a_wrong_command_line_is_one_line_and_code_2(vecserve: Vecserve, args: list[str]) -> None:
    outcome = vecserve(*args)
    assert outcome.code == 2
    assert outcome.out == ""
    assert outcome.err.count("\n") == 1
    assert outcome.err.startswith("vecserve: ")


@pytest.mark.parametrize(
    "args",
    [
        ["search", "docs", "q"],
        ["embed", "text"],
        ["collections", "list"],
        ["collections", "drop", "docs", "--yes"],
        ["models", "list"],
    ],
)
def test_no_server_is_one_line_and_code_3(vecserve: Vecserve, args: list[str]) -> None:
    outcome = vecserve(*args, "--server", NOBODY)
    assert outcome.code == 3
    assert outcome.err.count("\n") == 1


def test_the_server_may_come_from_the_environment(
    vecserve: Vecserve, target: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VECSERVE_SERVER_TARGET", target)
    assert vecserve("search", "docs", "q").code == 0


def test_a_failure_of_the_server_is_one_line_and_code_1(
    online: Vecserve, server: FakeServer
) -> None:
    server.script.append(fail(grpc.StatusCode.INTERNAL, "internal error 42"))
    outcome = online("search", "docs", "q")
    assert (outcome.code, outcome.err) == (1, "vecserve: Search: internal error 42\n")


def test_a_search_prints_a_table_or_json(online: Vecserve) -> None:
    table = online("search", "docs", "hello")
    assert table.code == 0
    assert "0.500" in table.out
    assert "hello" in table.out
    printed = json.loads(online("search", "docs", "hello", "--json").out)
    assert printed["hits"] == [
        {"id": "hello", "score": 0.5, "seq": 7, "text": None, "payload": {"n": 1}}
    ]
    assert printed["timings"]["total_us"] == 6


def test_a_search_asks_for_what_its_options_say(online: Vecserve, server: FakeServer) -> None:
    assert online("collections", "create", "docs").code == 0
    options = ["--mode", "hybrid", "--lexical-weight", "2", "--group-by", "doc", "--explain"]
    assert online("search", "docs", "q", *options, "--where", "n=3", "--where", "!x").code == 0
    (asked,) = server.searches
    assert asked.options.mode == search_pb2.SEARCH_MODE_HYBRID
    assert asked.options.fusion.reciprocal_rank.lexical_weight == 2
    assert (asked.options.group_by, asked.options.explain) == ("doc", True)
    assert asked.options.with_text
    assert asked.options.filter == filters.all_of(
        filters.equals("n", 3), filters.exists("x", there=False)
    )
    assert online("search", "docs", "q", "--where", "!").code == 2


def test_a_collection_is_created_with_its_fields(online: Vecserve) -> None:
    declared = ["--field", "title:text", "--field", "a.b:number", "--stemming", "porter"]
    assert online("collections", "create", "docs", *declared).code == 0
    shown = json.loads(online("collections", "show", "docs", "--json").out)
    assert shown["fields"] == {
        "types": {"title": "text", "a.b": "number"},
        "tokeniser": "words",
        "stemming": "porter",
    }
    for wrong in ("title", "title:string", ":text"):
        outcome = online("collections", "create", "other", "--field", wrong)
        assert (outcome.code, "is not NAME:TYPE" in outcome.err) == (2, True)


def test_a_table_fits_into_80_columns(online: Vecserve) -> None:
    lines = online("search", "docs", "x" * 300).out.splitlines()
    assert all(len(line) <= 80 for line in lines)
    assert any("1" in line and "0.500" in line and '{"n": 1}' in line for line in lines)


def test_texts_are_embedded_from_arguments_and_from_stdin(
    online: Vecserve, monkeypatch: pytest.MonkeyPatch
) -> None:
    printed = json.loads(online("embed", "one", "two", "--json").out)
    assert printed["dim"] == 8
    assert len(printed["vectors"]) == 2
    monkeypatch.setattr("sys.stdin", io.StringIO("one\ntwo\nbad\n"))
    outcome = online("embed", "--json")
    assert outcome.code == 4
    assert json.loads(outcome.out)["vectors"] == [*printed["vectors"], None]
    assert outcome.err == "text 3: Embed: text: bad\n"


def test_a_collection_lives_through_its_commands(
    online: Vecserve, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert online("collections", "create", "docs").code == 0
    again = online("collections", "create", "docs")
    assert (again.code, again.err.count("\n")) == (1, 1)
    listed = json.loads(online("collections", "list", "--json").out)
    assert [found["name"] for found in listed["collections"]] == ["docs"]
    assert "docs" in online("collections", "show", "docs").out
    monkeypatch.setattr("sys.stdin", io.StringIO("n\n"))
    assert online("collections", "drop", "docs").code == 1
    assert online("collections", "drop", "docs", "--yes").code == 0
    assert online("collections", "show", "docs").code == 1


def test_a_file_is_indexed_and_once_more_without_harm(
    online: Vecserve, server: FakeServer, rows: Path
) -> None:
    missing = online("index", "docs", str(rows))
    assert missing.code == 1
    for _ in range(2):
        outcome = online("index", "docs", str(rows), "--create", "--json")
        assert outcome.code == 0
        assert json.loads(outcome.out)["indexed"] == 30
    assert len(server.rows) == 30


def test_bad_lines_are_skipped_and_reported_by_number(
    online: Vecserve, server: FakeServer, rows: Path
) -> None:
    rows.write_text(rows.read_text() + "garbage\n" + '{"id": "last", "text": "t"}\n')
    outcome = online("index", "docs", str(rows), "--create", "--on-error", "skip")
    assert outcome.code == 4
    assert outcome.err.startswith(f"{rows}: line 31: not JSON")
    assert outcome.out.startswith("docs: 31 rows in ")
    assert len(server.rows) == 31


@pytest.mark.parametrize("count", [0, 9, 1000])
def test_a_bad_line_stops_the_run_after_the_lines_before_it_are_written(
    online: Vecserve, server: FakeServer, tmp_path: Path, count: int
) -> None:
    good = [f'{{"id": "r{i}", "text": "text"}}' for i in range(count)]
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join([*good, "garbage", '{"id": "after", "text": "text"}']))
    outcome = online("index", "docs", str(path), "--create")
    assert outcome.code == 1
    assert outcome.err.startswith(f"vecserve: {path}: line {count + 1}: not JSON")
    assert outcome.err.endswith(f"({count} rows are written)\n")
    assert outcome.out == ""
    assert list(server.rows) == [f"r{i}" for i in range(count)]


def test_a_refused_row_stops_the_run_and_what_was_sent_is_counted(
    online: Vecserve, server: FakeServer, tmp_path: Path
) -> None:
    texts = ["good"] * 5000
    texts[7] = "bad"
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(f'{{"id": "r{i}", "text": "{t}"}}' for i, t in enumerate(texts)))
    outcome = online("index", "docs", str(path), "--create")
    assert outcome.code == 1
    assert outcome.err.startswith(f"vecserve: {path}: line 8: text: bad ")
    assert outcome.err.endswith(f"({len(server.rows)} rows are written)\n")
    assert len(server.rows) < 4999


class Interrupting(io.RawIOBase):
    """Some lines of a standard input, then the user's Ctrl-C."""

    def __init__(self, lines: int) -> None:
        self._lines = [f'{{"id": "r{n}", "text": "text"}}\n'.encode() for n in range(lines)]

    def readline(self, size: int | None = -1, /) -> bytes:
        if not self._lines:
            raise KeyboardInterrupt
        return self._lines.pop(0)


def test_an_interrupted_run_says_how_many_rows_are_in_and_how_to_go_on(
    online: Vecserve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=Interrupting(256 * 6)))
    outcome = online("index", "docs", "-", "--create")
    assert (outcome.code, outcome.out) == (130, "")
    told = re.fullmatch(
        r"vecserve: interrupted: (\d+) rows of standard input are in docs; "
        r"run the same command again to go on, .*\n",
        outcome.err,
    )
    assert told is not None
    assert int(told[1]) % 256 == 0
    assert int(told[1]) > 0


def test_a_run_that_fails_midway_says_how_to_go_on(
    online: Vecserve, server: FakeServer, tmp_path: Path
) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(f'{{"id": "r{n}", "text": "text"}}\n' for n in range(2000)))
    server.stream_script.extend(["", "", "fail"])
    outcome = online("index", "docs", str(path), "--create")
    assert outcome.code == 1
    assert f"rows of {path} are in docs; run the same command again to go on" in outcome.err


def test_a_csv_without_the_field_is_a_wrong_command_line(online: Vecserve, tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("key,words\n1,hello\n")
    assert online("index", "docs", str(path), "--create").code == 2
    named = ["--id-field", "key", "--text-field", "words"]
    assert online("index", "docs", str(path), "--create", *named).code == 0


def test_the_settings_are_checked_and_printed(vecserve: Vecserve, tmp_path: Path) -> None:
    config = tmp_path / "vecserve.toml"
    config.write_text("[server]\nport = 9001\n")
    printed = json.loads(vecserve("check-config", "--config", str(config), "--json").out)
    assert printed["server"]["port"] == 9001
    config.write_text("[server]\nprot = 9001\n")
    outcome = vecserve("check-config", "--config", str(config))
    assert outcome.code == 2
    assert "server.prot" in outcome.err


def test_the_command_says_what_is_missing_where_its_libraries_are_not_installed() -> None:
    without_typer = (
        "import sys; sys.modules['typer'] = None; from vecserve_server.cli.main import main; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", without_typer], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert "vecserve[cli]" in done.stderr


def test_a_process_ends_whatever_its_threads_wait_for() -> None:
    script = """
import sys, threading
from vecserve_server.cli.main import main
threading.Thread(target=threading.Event().wait).start()
sys.argv = ["vecserve", "--version"]
main()
"""
    done = subprocess.run(
        [sys.executable, "-c", script], check=False, capture_output=True, timeout=60
    )
    assert (done.returncode, done.stdout.split()[0]) == (0, b"vecserve")


def test_output_that_cannot_be_written_shows_in_the_exit_code() -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "vecserve_server.cli.main", "--version"],
            check=False,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
        )
    assert (done.returncode, done.stderr) == (1, "vecserve: output: No space left on device\n")
