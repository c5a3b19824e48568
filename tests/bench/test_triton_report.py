"""The comparison with Triton: configurations that Triton reads, and honest arithmetic."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from google.protobuf import text_format
from hypothesis import given
from hypothesis import strategies as st
from process_cpu import cpu_s, descendants
from triton_forms import (
    BEST,
    PLAIN_ONNX,
    USUAL,
    forms,
    write_plain_onnx,
    write_triton_repository,
)
from triton_load import Figures, write_texts, write_tokens
from triton_report import MIX, TARGETS, VECSERVE, Measurement, summarise
from triton_tools import ToolsMissing, find, unpack
from tritonclient.grpc import model_config_pb2

CORES = 3


def measurement(way: str, number: int, throughput: float, p95_ms: float) -> Measurement:
    figures = Figures(
        throughput_per_s=throughput,
        p50_ms=p95_ms / 2,
        p95_ms=p95_ms,
        p99_ms=p95_ms * 2,
        server=None,
        printed="",
    )
    return Measurement(
        traffic=MIX, clients=32, way=way, round=number, figures=figures, busy_cores=2.0
    )


@pytest.fixture
def repositories(tmp_path: Path) -> tuple[Path, Path]:
    tokenizer = tmp_path / "tokenizer.json"
    tokenizer.write_text("{}")
    ours, theirs, graphs = tmp_path / "ours", tmp_path / "theirs", tmp_path / "graphs"
    chosen = list(forms(CORES).values())
    write_triton_repository(theirs, graphs=graphs, tokenizer=tokenizer, chosen=chosen)
    write_plain_onnx(ours, graphs=graphs, instances=CORES)
    return ours, theirs


def read_config(folder: Path) -> model_config_pb2.ModelConfig:
    text = (folder / "config.pbtxt").read_text("utf-8")
    return text_format.Parse(text, model_config_pb2.ModelConfig())


def test_every_form_is_a_complete_triton_model(repositories: tuple[Path, Path]) -> None:
    for folder in repositories[1].iterdir():
        config = read_config(folder)
        assert config.name == folder.name
        assert config.backend == "python"
        assert {path.name for path in (folder / "1").iterdir()} == {
            "model.py",
            "model.onnx",
            "tokenizer.json",
        }


def test_both_servers_run_the_plain_file_under_one_configuration(
    repositories: tuple[Path, Path],
) -> None:
    for name in PLAIN_ONNX:
        ours, theirs = (read_config(root / name) for root in repositories)
        for config in (ours, theirs):
            config.ClearField("backend")
            config.ClearField("parameters")
        assert ours == theirs
        assert ours.instance_group[0].count == CORES


def test_the_forms_never_run_more_threads_than_cores_but_where_that_is_tried() -> None:
    busy = {f.name for f in forms(CORES).values() if f.instances * f.threads > CORES}
    assert busy == {"alone-more-instances"}
    assert {USUAL, *BEST} <= set(forms(CORES))


@given(st.lists(st.tuples(*[st.floats(1, 1e4)] * 4), min_size=1, max_size=5))
def test_a_target_is_met_exactly_where_the_median_of_the_ratios_says_so(
    rounds: list[tuple[float, float, float, float]],
) -> None:
    measured = [
        measurement(way, number, throughput, p95_ms)
        for number, (ours, ours_p95, theirs, theirs_p95) in enumerate(rounds)
        for way, throughput, p95_ms in ((VECSERVE, ours, ours_p95), (USUAL, theirs, theirs_p95))
    ]
    judged = {t["metric"]: t for t in summarise(measured)["targets"]}
    assert judged.keys() == {"throughput_per_s", "p95_ms"}
    faster = sorted(ours / theirs for ours, _, theirs, _ in rounds)
    later = sorted(ours / theirs for _, ours, _, theirs in rounds)
    throughput, p95 = judged["throughput_per_s"], judged["p95_ms"]
    assert faster[0] - 1e-3 <= throughput["ratio"] <= faster[-1] + 1e-3
    assert later[0] - 1e-3 <= p95["ratio"] <= later[-1] + 1e-3
    assert throughput["met"] == (throughput["ratio"] >= 8)
    assert p95["met"] == (p95["ratio"] <= 0.12)


def test_the_fastest_of_the_tuned_forms_is_the_rival() -> None:
    measured = [
        measurement(VECSERVE, 0, 200.0, 50.0),
        measurement(BEST[0], 0, 100.0, 10.0),
        measurement(BEST[1], 0, 150.0, 100.0),
    ]
    judged = {t["metric"]: t for t in summarise(measured)["targets"]}
    assert {t["triton"] for t in judged.values()} == {BEST[1]}
    assert judged["throughput_per_s"]["ratio"] == pytest.approx(1.333)
    assert judged["p95_ms"]["ratio"] == pytest.approx(0.5)


def test_what_was_not_measured_is_not_judged() -> None:
    assert summarise([])["targets"] == []
    assert len(TARGETS) > 8


def test_input_data_carries_each_text_and_each_shape(tmp_path: Path) -> None:
    texts = json.loads(write_texts(tmp_path / "texts.json", ["a", "ü"]).read_text("utf-8"))
    assert texts == {"data": [{"text": ["a"]}, {"text": ["ü"]}]}
    tokens = json.loads(write_tokens(tmp_path / "tokens.json", [[101, 7, 102]]).read_text("utf-8"))
    assert tokens["data"][0]["input_ids"] == {"content": [101, 7, 102], "shape": [3]}
    assert tokens["data"][0]["attention_mask"] == {"content": [1, 1, 1], "shape": [3]}


def test_cpu_time_is_that_of_the_processes_and_their_children() -> None:
    spin = "import time\nwhile time.process_time() < 0.5: pass\ninput('spun')"
    with subprocess.Popen(
        [sys.executable, "-c", spin], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.pid in descendants(os.getpid())
        assert process.stdout is not None
        assert process.stdout.read(4) == b"spun"
        assert 0.25 <= cpu_s([process.pid]) < 2
        process.communicate(b"\n")
    assert cpu_s([process.pid]) == 0


def test_missing_tools_say_how_to_get_them(tmp_path: Path) -> None:
    with pytest.raises(ToolsMissing, match="make tools-triton"):
        find(tmp_path)
    with pytest.raises(ToolsMissing, match="tritonclient"):
        unpack(tmp_path, tmp_path / "tools")
