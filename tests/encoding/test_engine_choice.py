"""Which engine runs is decided once, and what was measured survives what may happen to a disk."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from vecserve_server.encoding.engine_choice import choose_engine
from vecserve_server.encoding.measurements import Measurements

BOTH = {"onnxruntime": "a" * 64, "openvino": "b" * 64}


class Stopwatch:
    def __init__(self, seconds: Mapping[str, float]) -> None:
        self.seconds = seconds
        self.asked: list[str] = []

    def __call__(self, engine: str) -> float:
        self.asked.append(engine)
        return self.seconds[engine]


def test_the_faster_engine_runs_and_goes_on_running(tmp_path: Path) -> None:
    kept = Measurements(tmp_path)
    first = Stopwatch({"onnxruntime": 1.0, "openvino": 2.0})
    later = Stopwatch({"onnxruntime": 2.0, "openvino": 1.0})

    assert choose_engine(BOTH, kept=kept, measure_s=first) == "onnxruntime"
    assert choose_engine(BOTH, kept=kept, measure_s=later) == "onnxruntime"
    assert (sorted(first.asked), later.asked) == (["onnxruntime", "openvino"], [])


def test_other_files_are_measured_anew(tmp_path: Path) -> None:
    kept = Measurements(tmp_path)
    choose_engine(BOTH, kept=kept, measure_s=Stopwatch({"onnxruntime": 1, "openvino": 2}))
    other = BOTH | {"openvino": "c" * 64}

    found = choose_engine(other, kept=kept, measure_s=Stopwatch({"onnxruntime": 2, "openvino": 1}))
    assert found == "openvino"


def test_the_choice_outlives_a_time_without_its_engine(tmp_path: Path) -> None:
    kept = Measurements(tmp_path)
    watch = Stopwatch({"onnxruntime": 2.0, "openvino": 1.0})
    choose_engine(BOTH, kept=kept, measure_s=watch)
    alone = {"onnxruntime": BOTH["onnxruntime"]}

    assert choose_engine(alone, kept=kept, measure_s=watch) == "onnxruntime"
    assert choose_engine(BOTH, kept=kept, measure_s=watch) == "openvino"
    assert len(watch.asked) == 2


@pytest.mark.parametrize("as_file", [True, False])
def test_without_a_place_to_keep_it_the_choice_is_fixed(tmp_path: Path, as_file: bool) -> None:
    (tmp_path / "file").touch()
    kept = Measurements(tmp_path / "file" if as_file else None)
    watch = Stopwatch({"onnxruntime": 1.0, "openvino": 2.0})

    assert choose_engine(BOTH, kept=kept, measure_s=watch) == "openvino"
    assert watch.asked == []


def test_what_was_kept_is_found_by_the_whole_key(tmp_path: Path) -> None:
    kept = Measurements(tmp_path)
    assert kept.put({"a": 1}, {"v": 2})

    assert Measurements(tmp_path).get({"a": 1}) == {"v": 2}
    assert kept.get({"a": 2}) is None
    assert [path.suffix for path in tmp_path.iterdir()] == [".json"]


@pytest.mark.parametrize("content", [b"", b"[]", b'{"key": {"a": 1}}', b'{"key": {"a": 1}, "va'])
def test_a_damaged_file_is_as_good_as_none(tmp_path: Path, content: bytes) -> None:
    kept = Measurements(tmp_path)
    kept.put({"a": 1}, {"v": 2})
    [file] = tmp_path.iterdir()
    file.write_bytes(content)

    assert kept.get({"a": 1}) is None
    assert kept.put({"a": 1}, {"v": 3})
    assert kept.get({"a": 1}) == {"v": 3}
