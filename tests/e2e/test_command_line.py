"""Command lines against a real server: files in and out, rows, and what is said about mistakes."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.cli.conftest import Outcome
from tests.e2e.server_process import ServerProcess
from vecserve_client import Client, Fields, Record
from vecserve_server.cli.program import run

Vecserve = Callable[..., Outcome]
TEXTS = {"bike": "A red bicycle.", "car": "An electric car", "apple": "Green apples, 1 kg!"}


@pytest.fixture
def vecserve(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, server: ServerProcess
) -> Vecserve:
    """Run one command line against the server, in this process."""
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("VECSERVE_SERVER_TARGET", server.target)

    def call(*args: str) -> Outcome:
        code = run(args)
        captured = capsys.readouterr()
        return Outcome(code=code, out=captured.out, err=captured.err)

    return call


@pytest.fixture(scope="module")
def docs(server: ServerProcess) -> Iterator[Client]:
    """A collection of three texts and a vector."""
    with Client(target=server.target, deadline_s=30.0) as client:
        client.create_collection("docs", fields=Fields(types={"kind": "keyword"}))
        rows = [Record(id=key, text=text, payload={"kind": "thing"}) for key, text in TEXTS.items()]
        client.upsert("docs", [*rows, Record(id="bare", vector=np.ones(384, np.float32))])
        yield client


def test_a_csv_with_declared_types_is_searched_by_them(
    vecserve: Vecserve, docs: Client, tmp_path: Path
) -> None:
    path = tmp_path / "shop.csv"
    path.write_text("id,text,price,zip\n1,a red car,49.5,02134\n2,a green car,300,10001\n")
    fields = ["--field", "price:number", "--field", "zip:keyword", "--field", "text:text"]
    assert vecserve("index", "shop", str(path), "--create", *fields).code == 0
    assert docs.get_collection("shop").fields == Fields(
        types={"price": "number", "zip": "keyword", "text": "text"}
    )
    assert docs.count("shop", where={"price": {"lt": 50}}) == 1
    for where in ("price<50", "zip=02134"):
        found = json.loads(vecserve("search", "shop", "car", "--where", where, "--json").out)
        assert [hit["id"] for hit in found["hits"]] == ["1"]
    # A collection that is there types the cells of later files.
    path.write_text("id,text,price,zip\n3,a blue car,7,1\n4,a car,cheap,1\n")
    outcome = vecserve("index", "shop", str(path))
    assert outcome.code == 1
    assert outcome.err == (
        f"vecserve: {path}: line 3: column 'price': 'cheap' is not a number, such as 12.5 "
        "(1 rows are written)\n"
    )
    assert docs.count("shop", where={"price": 7}) == 1
    other = vecserve("index", "shop", str(path), "--create", "--field", "price:keyword")
    assert (other.code, "declares it as number" in other.err) == (2, True)
    docs.drop_collection("shop")


@pytest.mark.parametrize(
    ("where", "problem"),
    [
        ("pirce<50", "no row of 'typed' has a field 'pirce' (did you mean 'price'?); there are "
         "a.b, brand, price"),
        ("!pirce", "has a field 'pirce'"),
        ("pirce!=3", "has a field 'pirce'"),
        ("price<50", "no row of 'typed' holds a number in 'price'; row 'r' holds \"49.5\""),
        ("price=49", "holds a number in 'price'"),
        ("a.b=true", "holds a boolean in 'a.b'; row 'r' holds 1"),
        ("a.b=one", "holds a string in 'a.b'; row 'r' holds 1"),
        ("a.b^=1", "holds a string in 'a.b'; row 'r' holds 1"),
        ("brand>2024-01-01", "holds a date in 'brand', declared as keyword; row 'r' holds"),
    ],
)  # fmt: skip
def test_a_condition_that_no_row_can_meet_is_an_error(
    vecserve: Vecserve, docs: Client, where: str, problem: str
) -> None:
    if not [one for one in docs.list_collections() if one.name == "typed"]:
        docs.create_collection("typed", fields={"brand": "keyword"})
        payload = {"price": "49.5", "brand": "Acme", "a": {"b": 1}}
        docs.upsert("typed", [Record(id="r", vector=np.ones(384, np.float32), payload=payload)])
    for command in (["search", "typed", "car"], ["count", "typed"], ["scan", "typed"],
                    ["delete", "typed", "--yes"], ["export", "typed"]):  # fmt: skip
        outcome = vecserve(*command, "--where", where)
        assert (outcome.code, outcome.out) == (2, "")
        assert problem in outcome.err


def test_the_same_file_twice_changes_nothing(
    vecserve: Vecserve, docs: Client, tmp_path: Path
) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(f'{{"id": "r{n}", "text": "text {n}"}}\n' for n in range(300)))
    first = json.loads(vecserve("index", "twice", str(path), "--create", "--json").out)
    assert (first["indexed"], first["unchanged"]) == (300, 0)
    before = docs.get_collection("twice")
    again = json.loads(vecserve("index", "twice", str(path), "--json").out)
    assert (again["indexed"], again["unchanged"]) == (300, 300)
    assert docs.get_collection("twice").last_seq == before.last_seq
    docs.drop_collection("twice")


HOSTILE = {
    2: b'{"id": "b", "text": "t", "x": 1e999}',
    3: b'{"id": "c", "text": "t", "x": NaN}',
    4: b'{"id": "d", "text": "\\ud800"}',
    5: b'{"id": "e", "text": "t", "x": ' + b"[" * 900 + b"]" * 900 + b"}",
    6: b'{"id": "f", "text": ["t"]}',
    7: b'{"id": "g", "text": "\xff"}',
    8: b'{"id": "h\\u0000", "text": "t"}',
    9: b'{"id": "i", "text": "' + b"x" * 1_100_000 + b'"}',
    10: b'{"id": "j", "text": "t", "x": "' + b"y" * 70_000 + b'"}',
    11: b'{"id": "' + b"k" * 600 + b'", "text": "t"}',
    12: b"\x00\x01",
    13: b"z" * 5_000_000,
    14: b'{"id": "l", "seq": 1, "payload": {}, "vector": [1, 2]}',
    15: b'{"id": "m", "text": "t", "x": ' + b"9" * 5000 + b"}",
}


def test_no_line_ends_a_run_that_skips(vecserve: Vecserve, docs: Client, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    first, last = b'{"id": "a", "text": "t"}\n', b'{"id": "z", "text": "t"}\n'
    path.write_bytes(first + b"\n".join(HOSTILE.values()) + b"\n" + last)
    outcome = vecserve("index", "hostile", str(path), "--create", "--on-error", "skip", "--json")
    assert outcome.code == 4
    told = re.findall(rf"^{re.escape(str(path))}: line (\d+): \S", outcome.err, re.MULTILINE)
    assert sorted(map(int, told)) == list(HOSTILE)
    assert outcome.err.count("\n") == len(HOSTILE)
    assert json.loads(outcome.out)["bad_lines"] == len(HOSTILE)
    assert [row.id for row in docs.scan("hostile")] == ["a", "z"]
    docs.drop_collection("hostile")


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("notes.md", "# Notes", "its name tells no format; there are .jsonl"),
        ("rows.jsonl", "garbage", "line 1: not JSON"),
        ("rows.csv", "key,words\n1,t\n", "line 1: no column 'id'; there are 'key', 'words'; --id"),
        ("rows.json", '[{"id": 1}]', "line 1: not a JSON object; one object a line"),
    ],
)
def test_a_file_without_a_good_line_makes_no_collection(
    vecserve: Vecserve, docs: Client, tmp_path: Path, name: str, content: str, problem: str
) -> None:
    path = tmp_path / name
    path.write_text(content)
    outcome = vecserve("index", "unmade", str(path), "--create")
    assert outcome.code in (1, 2)
    assert outcome.err.startswith(f"vecserve: {path}: {problem}")
    assert "unmade" not in [one.name for one in docs.list_collections()]


def test_an_exported_collection_is_read_back(
    vecserve: Vecserve, docs: Client, tmp_path: Path
) -> None:
    def content(name: str) -> list[tuple[Any, ...]]:
        rows = docs.scan(name, with_text=True, include_vector=True)
        return [(row.id, row.text, row.payload) for row in rows]

    docs.create_collection("original", fields={"text": "text", "a.b": "number"})
    payload = {"text": "kept", "id": "inner", "a": {"b": 1.5}, "none": None, "ünï": ["x", {}]}
    rows = [
        Record(id="1", text="a red car.\nsecond line \u2028 \x00", payload=payload),
        Record(id="ü", text=" ", payload={}),
        Record(id="v", vector=np.arange(1, 385, dtype=np.float32), payload={"n": 2**53 + 1}),
    ]
    docs.upsert("original", rows)
    path = tmp_path / "rows.jsonl"
    exported = vecserve("export", "original", str(path), "--json")
    assert json.loads(exported.out)["rows"] == 3
    assert [set(json.loads(line)) for line in path.read_text().split("\n")[:3]] == [
        {"id", "seq", "text", "payload"},
        {"id", "seq", "text", "payload"},
        {"id", "seq", "vector", "payload"},
    ]
    assert vecserve("index", "copied", str(path), "--create").code == 0
    assert content("copied") == content("original")
    again = json.loads(vecserve("index", "original", str(path), "--json").out)
    assert again["unchanged"] == 3
    prompted = vecserve("index", "original", str(path), "--prompt", "query")
    assert (prompted.code, "--prompt: 'query' is unknown" in prompted.err) == (1, True)
    vectors = {
        name: np.array([row.vector for row in docs.scan(name, include_vector=True)])
        for name in ("original", "copied")
    }
    np.testing.assert_allclose(vectors["copied"], vectors["original"], atol=1e-3)
    assert vecserve("export", "original", str(path)).err.endswith("--force replaces it\n")
    with_vectors = vecserve("export", "original", "--vectors", "--where", "a.b>1").out
    assert len(json.loads(with_vectors)["vector"]) == 384
    for name in ("original", "copied"):
        docs.drop_collection(name)


def test_rows_of_another_length_are_read_back(
    vecserve: Vecserve, docs: Client, tmp_path: Path
) -> None:
    docs.create_collection("short", dim=4)
    docs.upsert("short", [Record(id="1", vector=np.ones(4, np.float32))])
    path = tmp_path / "rows.jsonl"
    assert vecserve("export", "short", str(path)).code == 0
    assert vecserve("index", "short-copy", str(path), "--create").code == 0
    outcome = vecserve("index", "long-copy", str(path), "--create", "--dim", "8")
    assert outcome.code == 1
    assert "vector: has 4 components; the collection has 8; `vecserve index --create" in outcome.err
    dims = {name: docs.get_collection(name).dim for name in ("short", "short-copy", "long-copy")}
    assert dims == {"short": 4, "short-copy": 4, "long-copy": 8}
    for name in dims:
        docs.drop_collection(name)


def test_rows_are_shown_counted_and_deleted(vecserve: Vecserve, docs: Client) -> None:
    shown = vecserve("get", "docs", "bike", "gone")
    assert (shown.code, shown.err) == (4, "docs has no row 'gone'\n")
    assert "text     A red bicycle." in shown.out
    got = json.loads(vecserve("get", "docs", "bike", "gone", "--json", "--vectors").out)
    assert (got["rows"][0]["text"], got["missing_ids"]) == (TEXTS["bike"], ["gone"])
    assert len(got["rows"][0]["vector"]) == 384
    scanned = json.loads(vecserve("scan", "docs", "--limit", "2", "--json").out)
    assert ([row["id"] for row in scanned["rows"]], scanned["has_more"]) == (["bike", "car"], True)
    assert "there are more" in vecserve("scan", "docs", "--limit", "2", "--no-text").out
    assert vecserve("count", "docs", "--where", "kind=thing").out == "3\n"
    docs.create_collection("doomed")
    rows = [Record(id=f"r{n}", text=f"text {n}", payload={"n": n}) for n in range(5)]
    docs.upsert("doomed", rows)
    assert vecserve("delete", "doomed", "r0", "gone").out == "deleted 1 of 2 rows of doomed\n"
    assert vecserve("delete", "doomed").code == 2
    assert vecserve("delete", "doomed", "r1", "--where", "n=1").code == 2
    unasked = vecserve("delete", "doomed", "--where", "n>2")
    assert (unasked.code, "--yes" in unasked.err) == (2, True)
    deleted = vecserve("delete", "doomed", "--where", "n>2", "--yes", "--json")
    assert json.loads(deleted.out) == {"collection": "doomed", "deleted": 2}
    assert docs.count("doomed") == 2
    docs.drop_collection("doomed")


def test_a_search_prints_texts_and_explains_itself_in_words(
    vecserve: Vecserve, docs: Client
) -> None:
    told = vecserve("search", "docs", "fruit", "-k", "2", "--explain", "--where", "kind=thing")
    assert "Green apples, 1 kg!" in told.out
    assert "3 rows match" in told.out
    assert "by vectors" in told.out
    assert "{" not in told.out.partition("step")[2]
    assert all(len(line) <= 80 for line in told.out.splitlines())
    found = json.loads(vecserve("search", "docs", "fruit", "--explain", "--json").out)
    assert found["hits"][0]["text"] == TEXTS["apple"]
    assert found["explain"]["mode"] == "dense"
    assert TEXTS["apple"] not in vecserve("search", "docs", "fruit", "--no-text").out
    docs.create_collection("steered")
    docs.upsert("steered", [Record(id="x", text="\x1b[31mred\x07")])
    assert "\x1b" not in vecserve("search", "steered", "red").out
    docs.drop_collection("steered")


@pytest.mark.parametrize(
    ("args", "problem", "cure"),
    [
        (["search", "docs", "x", "--mode", "lexical"], "--mode: collection 'docs' declares no",
         "--mode dense"),
        (["search", "docs", "x", "--min-score", "7"], "--min-score: is 7", "-1 to 1 are allowed"),
        (["search", "docs", "x", "--group-by", "a..b"], "--group-by: 'a..b'", "empty part"),
        (["classify", "docs", "x", "--label-field", "x" * 200], "--label-field: has 200 bytes", ""),
        (["search", "docs", "x", "--group-by", "kid"], "--group-by kid: no row of 'docs' has",
         "(did you mean 'kind'?); there are kind"),
        (["classify", "docs", "x", "--label-field", "kid"], "--label-field kid: no row of 'docs'",
         "(did you mean 'kind'?)"),
        (["search", "docs", "x", "--prompt", "query"], "--prompt: 'query' is unknown", ""),
        (["search", "docs", "x", "--field", "kid"], "--field kid: no row of 'docs' has",
         "(did you mean 'kind'?)"),
        (["index", "gone", "/"], "/: is a folder", "name a file in it"),
        (["search", "gone", "x"], "collection: 'gone' does not exist",
         "`vecserve collections list`"),
        (["index", "gone", "-"], "does not exist", "--create makes it"),
    ],
)  # fmt: skip
def test_an_error_names_the_flag_and_the_cure(
    vecserve: Vecserve, docs: Client, args: list[str], problem: str, cure: str
) -> None:
    assert docs.count("docs")
    outcome = vecserve(*args)
    assert outcome.code in (1, 2)
    assert problem in outcome.err
    assert cure in outcome.err
    assert "options." not in outcome.err
