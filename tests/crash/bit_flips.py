"""Flip bits all over a data folder, one in each run; compare all answers with an undamaged one's.

`python -m tests.crash.bit_flips FOLDER FLIPS SEED [PART ...]` prints the outcomes by part of the
folder as JSON; parts are files, and for files of rows their tables and indexes. A wrong answer must
be found by `verify`, or the start or the call must name what is damaged; a repair must bring the
right answers back, or the damaged rows are named. Each look at a damaged folder is a fork, so that
a crash is seen.
"""

from __future__ import annotations

import asyncio
import json
import random
import shutil
import sqlite3
import sys
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from tests.crash.model import vector_of
from tests.crash.scenarios import Journal
from tests.crash.store import SPEC, Store, check_refusal, opened
from tests.crash.sweep import in_fork
from vecserve_server.collections.collection import Collection
from vecserve_server.collections.hits.retrieval import Asked
from vecserve_server.domain.caller import ANONYMOUS
from vecserve_server.domain.collections import FieldSpec, FieldType, TextAnalysis, Tokeniser
from vecserve_server.domain.conditions import Bounds, Condition, InstantIn, NumberIn, OneOf
from vecserve_server.domain.rows import NewRow, Source
from vecserve_server.domain.searching import Mode, Wanted
from vecserve_server.errors import VecserveError
from vecserve_server.storage.rows.operations import Delete, Upsert

Counts: TypeAlias = dict[str, dict[str, int]]
Answers: TypeAlias = dict[str, Any]

ROWS = 600
FIELDS = (
    FieldSpec(name="n", type=FieldType.INTEGER),
    FieldSpec(name="price", type=FieldType.NUMBER),
    FieldSpec(name="brand", type=FieldType.KEYWORD),
    FieldSpec(name="new", type=FieldType.BOOLEAN),
    FieldSpec(name="day", type=FieldType.DATETIME),
    FieldSpec(name="title", type=FieldType.TEXT),
)
SPECS = (
    replace(SPEC, name="words", fields=FIELDS, text_analysis=TextAnalysis(porter=True)),
    replace(
        SPEC, name="grams", fields=FIELDS, text_analysis=TextAnalysis(tokeniser=Tokeniser.TRIGRAM)
    ),
)
_DAY_US = 86_400_000_000
_NOUNS = ("shoes", "école", "東京タワー", "C++17", "पानी", "lamp", "keyboard", "กาแฟ")


class Place(NamedTuple):
    """One bit, and what lies there."""

    file: Path
    bit: int
    part: str


def main(arguments: list[str]) -> int:
    """Damage one place after the other; 0 if nothing was wrong without being told."""
    folder, flips, seed = Path(arguments[0]), int(arguments[1]), int(arguments[2])
    base, oracle = folder / "base", folder / "oracle.json"
    base.mkdir()
    assert in_fork(lambda: asyncio.run(_prepare(base))) == 0
    assert in_fork(lambda: oracle.write_text(json.dumps(asyncio.run(_oracle(base))))) == 0
    counts: Counts = defaultdict(lambda: defaultdict(int))
    for place in _places(base, flips, random.Random(seed), arguments[3:]):
        outcome = _try(folder, base, oracle, place)
        counts[place.part][outcome] += 1
    print(json.dumps(counts, sort_keys=True))
    return 0


def _try(folder: Path, base: Path, oracle: Path, place: Place) -> str:
    root, seen = folder / "damaged", Journal(folder / "seen")
    shutil.rmtree(root, ignore_errors=True)
    seen.path.unlink(missing_ok=True)
    shutil.copytree(base, root)
    path = root / place.file
    data = bytearray(path.read_bytes())
    data[place.bit // 8] ^= 1 << place.bit % 8
    path.write_bytes(data)
    wanted = json.loads(oracle.read_text())
    ended = in_fork(lambda: asyncio.run(_look(root, wanted, seen)))
    if ended:
        raise SystemExit(f"bit {place.bit} of {place.file}: {seen.lines()}, then {ended}")
    [outcome] = seen.lines()
    return outcome


def row(number: int) -> NewRow:
    """Make a row."""
    payload = {
        "brand": f"brand{number % 9}",
        "day": f"2024-{number % 12 + 1:02d}-{number % 28 + 1:02d}T0{number % 10}:30:00",
        "n": number,
        "new": number % 3 == 0,
        "price": number / 8,
        "title": f"{_NOUNS[number % 8]} number{number} {_NOUNS[number % 7]} of all",
    }
    return NewRow(
        id=f"id{number}",
        vector=vector_of(number),
        payload_json=json.dumps(payload, ensure_ascii=False, separators=(",", ":")),
        source=Source(text=f"text {number}"),
    )


async def _prepare(root: Path) -> None:
    async with opened(root) as store:
        for spec in SPECS:
            collection = await store.collections.create(spec)
            await collection.write([Upsert(row(number)) for number in range(ROWS // 2)])
            await asyncio.to_thread(collection._index.maintain)  # type: ignore[attr-defined]
            await collection.write([Delete(f"id{number}") for number in range(0, ROWS, 50)])
            await collection.write([Upsert(row(number)) for number in range(ROWS // 2, ROWS)])


async def _oracle(root: Path) -> Answers:
    async with opened(root) as store:
        answers = await _all_answers(store)
        for spec in SPECS:
            assert not (await store.upkeep.verify(spec.name, ANONYMOUS)).problems
    assert not any(isinstance(answer, str) for answer in answers.values())
    return answers


async def _look(root: Path, wanted: Answers, seen: Journal) -> None:
    try:
        async with opened(root) as store:
            seen.note(await _judged(store, wanted))
    except VecserveError as error:
        check_refusal(root, error)
        seen.note("refused to open")


async def _judged(store: Store, wanted: Answers) -> str:
    found = await _all_answers(store)
    wrong = [name for name in wanted if found[name] != wanted[name]]
    told = [name for name in wrong if isinstance(found[name], str)]
    checks = {spec.name: await store.upkeep.verify(spec.name, ANONYMOUS) for spec in SPECS}
    problems = [text for checked in checks.values() for text in checked.problems]
    if not problems:
        assert not wrong, f"wrong and not found: {wrong}"
        return "right"
    repaired = {
        spec.name: await store.upkeep.verify(spec.name, ANONYMOUS, repairs=True) for spec in SPECS
    }
    left = [text for checked in repaired.values() for text in checked.problems]
    state = "wrong" if len(told) < len(wrong) else "told" if wrong else "right"
    if left:
        assert all(
            checked.has_damaged_rows or checked.has_lost_rows or not checked.problems
            for checked in repaired.values()
        ), left
        return f"{state}, found: the rows are named"
    now = await _all_answers(store)
    still = [name for name in wanted if now[name] != wanted[name]]
    assert not still, f"repaired and still wrong: {still}, it was {problems}"
    return f"{state}, found and repaired"


async def _all_answers(store: Store) -> Answers:
    return {
        f"{spec.name} {name}": await _answer(store, spec.name, ask)
        for spec in SPECS
        for name, ask in QUESTIONS.items()
    }


async def _answer(store: Store, name: str, ask: Callable[[Collection], Any]) -> Any:
    """Ask; what is refused is an answer, too, if it names what is damaged."""
    try:
        # As JSON gives it back.
        return json.loads(json.dumps(await ask(store.collections.get(name))))
    except VecserveError as error:
        check_refusal(store.folder.path, error)
        return str(error)


async def _scan(collection: Collection) -> Sequence[Any]:
    found: list[Any] = []
    after_seq = 0
    while rows := await collection.scan(after_seq, 100, with_vectors=True):
        found += [[row.seq, row.id, row.payload_json, _numbers(row.vector)] for row in rows]
        after_seq = rows[-1].seq
    return found


async def _get(collection: Collection) -> Mapping[str, Any]:
    found = await collection.get([f"id{number}" for number in range(ROWS)], with_vectors=True)
    return {
        row_id: [row.seq, row.payload_json, _numbers(row.vector)] for row_id, row in found.items()
    }


async def _texts(collection: Collection) -> Mapping[int, str]:
    _, sources = await collection.scan_sources(0, 10_000)
    return {seq: source.text for seq, source in sources.items()}


def _numbers(vector: Any) -> list[float]:
    numbers: list[float] = vector.tolist()
    return numbers


def _count(condition: Condition) -> Callable[[Collection], Any]:
    return lambda collection: collection.count(condition)


def _search(asked: Asked, **wanted: Any) -> Callable[[Collection], Any]:
    async def ask(collection: Collection) -> list[tuple[str, float]]:
        found = await collection.retrieve([asked], Wanted(k=20, **wanted))
        return [(hit.id, round(hit.score, 4)) for hit in found.answers[0].hits]

    return ask


def _conditions() -> Mapping[str, Condition]:
    between = Bounds(gte=50.0, lt=90.0)
    return (
        {f"brand {n}": OneOf(field="brand", values=(f"brand{n}",)) for n in range(9)}
        | {
            f"n from {n}": NumberIn(field="n", bounds=Bounds(gte=float(n)))
            for n in range(0, ROWS, 20)
        }
        | {f"n is {n}": OneOf(field="n", values=(n,)) for n in range(0, ROWS, 3)}
        | {
            f"days from {n}": InstantIn(field="day", bounds=Bounds(gte=(19723 + n) * _DAY_US))
            for n in range(0, 366, 7)
        }
        | {"price": NumberIn(field="price", bounds=between)}
        | {f"new {new}": OneOf(field="new", values=(new,)) for new in (True, False)}
    )


QUESTIONS: Mapping[str, Callable[[Collection], Any]] = (
    {"scan": _scan, "get": _get, "texts": _texts}
    | {f"count {name}": _count(condition) for name, condition in _conditions().items()}
    | {
        f"word {word}": _search(Asked(text=word), mode=Mode.LEXICAL)
        for word in (*_NOUNS, *(f"number{n}" for n in range(0, ROWS, 7)), "of", "東京", "removed")
    }
    | {
        f"vector {n}": _search(Asked(vector=vector_of(n)), exact=n % 2 == 0)
        for n in range(0, ROWS, 40)
    }
    | {
        f"filtered {n}": _search(
            Asked(vector=vector_of(n), text="lamp"),
            mode=Mode.HYBRID,
            condition=OneOf(field="brand", values=(f"brand{n}",)),
        )
        for n in range(9)
    }
)


def _places(base: Path, flips: int, chosen: random.Random, only: Sequence[str]) -> list[Place]:
    """Choose bits: as many of each part, at random inside it."""
    parts: dict[str, list[tuple[Path, int, int]]] = defaultdict(list)
    for path in sorted(base.rglob("*")):
        if not path.is_file() or not path.stat().st_size or path.name == "LOCK":
            continue
        file = path.relative_to(base)
        pages = _pages(path) if path.name == "rows.sqlite" else []
        for part, start, size in pages or [(_kind(file), 0, path.stat().st_size)]:
            parts[part].append((file, start, size))
    names = sorted(parts.keys() & set(only) or parts)
    places = []
    for number in range(flips):
        part = names[number % len(names)]
        file, start, size = chosen.choice(parts[part])
        # The head of a page or file matters more than the rest.
        reach = min(size, 64) if number % 3 == 0 else size
        places.append(Place(file, 8 * start + chosen.randrange(8 * reach), part))
    chosen.shuffle(places)
    return places


def _kind(file: Path) -> str:
    return f"segments: {file.name}" if "segments" in file.parts else file.name


def _pages(path: Path) -> list[tuple[str, int, int]]:
    """List the pages of a file of rows: what they belong to, their first byte and their size."""
    with closing(sqlite3.connect(f"file:{path}?immutable=1", uri=True)) as connection:
        try:
            return connection.execute("SELECT name, pgoffset, pgsize FROM dbstat").fetchall()
        except sqlite3.OperationalError:  # this SQLite cannot tell
            return []


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
