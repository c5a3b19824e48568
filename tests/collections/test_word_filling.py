"""Word indexes that are made after their rows: of an older folder, piece by piece, when killed."""

from __future__ import annotations

import itertools
import os
import shutil
import sqlite3
import threading
import zipfile
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from tests.data import make_data_folder as old
from tests.storage.payloads import canonical
from vecserve_server.collections.word_filling import WordFilling
from vecserve_server.domain.collections import FieldSpec, FieldType, TextAnalysis, Tokeniser
from vecserve_server.domain.conditions import Bounds, InstantIn
from vecserve_server.domain.rows import NewRow
from vecserve_server.errors import Starting, StorageError
from vecserve_server.storage.files import sqlite_file
from vecserve_server.storage.payloads import word_table
from vecserve_server.storage.rows.operations import Delete, Upsert
from vecserve_server.storage.rows.row_log import RowLog

ROWS = 60
TITLE = FieldSpec(name="title", type=FieldType.TEXT)
TRIGRAM = TextAnalysis(tokeniser=Tokeniser.TRIGRAM)


def opened(path: Path, analysis: TextAnalysis = TRIGRAM) -> RowLog:
    return RowLog.open(path, dim=1, model_digest="0f", fields=[TITLE], text_analysis=analysis)


def upsert(row_id: str, title: str) -> Upsert:
    payload = canonical({"title": title})
    return Upsert(NewRow(id=row_id, vector=np.ones(1, np.float32), payload_json=payload))


def found(log: RowLog, text: str) -> set[str]:
    seqs = log.queries.lexical(text, 999, row_count=log.count()).seqs.tolist()
    return {row.id for row in log.by_seq(seqs).values()}


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Rows whose index is of another kind than the one that is opened next; pieces are small."""
    monkeypatch.setattr(word_table, "FILLED_AT_ONCE", 7)
    path = tmp_path / "rows.sqlite"
    log = opened(path, TextAnalysis())
    log.commit([upsert(f"id{number}", f"laufschuhe n{number}") for number in range(ROWS)])
    log.close()
    return path


@pytest.mark.parametrize("name", old.ANALYSES)
def test_a_folder_of_the_first_version_is_brought_forward(name: str, tmp_path: Path) -> None:
    zipfile.ZipFile(old.ARCHIVE).extractall(tmp_path)
    log = RowLog.open(
        tmp_path / "collections" / name / "1" / "rows.sqlite",
        dim=old.DIM,
        model_digest=old.MODEL.digest,
        fields=old.FIELDS,
        text_analysis=old.ANALYSES[name],
    )
    while log.bring_words_forward():
        pass
    for text, row_id in {"e\u0301cole": "french", "पानी": "water", "東京": "tower"}.items():
        assert found(log, text) == {row_id}
    assert found(log, "C++17 1.1.6") == {"code"}
    assert found(log, "removed") == set()
    assert log.queries.count(InstantIn(field="day", bounds=Bounds(gt=0))) == len(old.TITLES)
    assert not log.check().problems
    log.close()


def test_meanwhile_words_are_refused_and_rows_come_and_go(path: Path) -> None:
    log = opened(path)
    log.commit([upsert("new", "schuhe"), upsert("id3", "schuhe"), upsert("id59", "schuhe")])
    log.commit([Delete("id1"), Delete("id58"), Delete("new")])
    with pytest.raises(Starting, match="word index is being built, up to seq 7 of 60"):
        log.queries.lexical("schuh", 9, row_count=9)
    assert not log.check().problems
    pieces = 1
    while log.bring_words_forward():
        pieces += 1
        assert not log.check().problems
    assert pieces > ROWS // word_table.FILLED_AT_ONCE
    assert found(log, "schuh") == {f"id{number}" for number in range(ROWS)} - {"id1", "id58"}
    assert found(log, "n59") == found(log, "n3") - {f"id{number}" for number in range(30, 40)}
    with closing(sqlite3.connect(path)) as database:
        names = [name for (name,) in database.execute("SELECT name FROM sqlite_master")]
    assert "words" in names
    assert "words_retired" not in names
    log.close()


def test_killed_before_any_statement_it_goes_on_at_the_next_start(
    path: Path, tmp_path: Path
) -> None:
    step, killed = 0, True
    while killed:
        copy = tmp_path / f"copy-{step}" / "rows.sqlite"
        copy.parent.mkdir()
        shutil.copyfile(path, copy)
        killed = _is_killed_at(step, copy)
        log = opened(copy)
        while log.bring_words_forward():
            pass
        assert len(found(log, "schuh")) == ROWS
        assert not log.check().problems
        log.close()
        step += 9
    assert step > 5 * ROWS // 7


def _is_killed_at(step: int, path: Path) -> bool:
    """Open and fill in a fork that ends before the statement with this number, if there is one."""
    child = os.fork()
    if not child:
        connect, left = sqlite_file._connect, itertools.count(step, -1)

        def traced(uri: str) -> sqlite3.Connection:
            connection = connect(uri)
            connection.set_trace_callback(lambda _: next(left) or os._exit(9))
            return connection

        vars(sqlite_file)["_connect"] = traced
        log = opened(path)
        while log.bring_words_forward():
            pass
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9


def test_in_the_background_one_index_after_the_other_is_filled(path: Path) -> None:
    log = opened(path)
    pauses: list[float] = []
    filling = WordFilling(pause=pauses.append)
    filling.take(path, log)
    assert filling.settled(30)
    assert len(found(log, "schuh")) == ROWS
    assert len(pauses) >= ROWS // 7
    log.close()


def test_closing_the_file_ends_the_filling(path: Path) -> None:
    log = opened(path)
    log.close()
    with pytest.raises(StorageError):
        log.bring_words_forward()


def test_it_tells_when_nothing_is_left_to_fill(path: Path) -> None:
    begun, released = threading.Event(), threading.Event()

    class Held:
        def bring_words_forward(self) -> bool:
            begun.set()
            assert released.wait(30)
            return False

    filling = WordFilling()
    assert filling.settled(0)
    filling.take(path, Held())
    assert begun.wait(30)
    assert not filling.settled(0)
    released.set()
    assert filling.settled(30)
