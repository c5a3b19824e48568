"""NVIDIA's perf_analyzer, unchanged, against a real server process.

`make tools-triton` fetches the program; without it these tests are skipped.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.e2e.server_process import ServerProcess
from vecserve_server.measuring.triton.perf_analyzer import (
    Figures,
    Load,
    LoadFailed,
    run,
    sweep,
    write_texts,
)
from vecserve_server.measuring.triton.tools import DEFAULT_FOLDER, Tools, ToolsMissing, find

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.slow

MODEL = "all-MiniLM-L6-v2"
TEXTS = ["a red car", "", "Grüße aus Köln", "def f(x): return x", "🦄" * 20, "word " * 60]
WINDOW_MS = 400
OUTPUT_BYTES = 384 * 4
LIMIT_S = 90.0


@pytest.fixture(scope="module")
def tools() -> Tools:
    try:
        return find(ROOT / DEFAULT_FOLDER)
    except ToolsMissing as missing:
        pytest.skip(str(missing))


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_texts(tmp_path_factory.mktemp("input") / "texts.json", TEXTS)


def load(texts: Path, *options: str, clients: int = 4) -> Load:
    return Load(
        model=MODEL,
        input_file=texts,
        clients=clients,
        window_ms=WINDOW_MS,
        options=options,
        limit_s=LIMIT_S,
    )


def check(figures: Figures) -> None:
    assert figures.throughput_per_s > 0
    assert 0 < figures.p50_ms <= figures.p95_ms <= figures.p99_ms


def check_breakdown(figures: Figures) -> None:
    """The server's own averages are there and fit into what the client saw."""
    assert figures.server is not None
    assert figures.server.compute_infer_us > 0
    assert figures.server.total_us <= figures.p99_ms * 1000
    counts = [int(n) for n in re.findall(r"(?:Inference|request) count: (\d+)", figures.printed)]
    assert counts
    assert all(counts)


def test_a_concurrency_sweep_runs_at_every_step(
    tools: Tools, server: ServerProcess, texts: Path
) -> None:
    steps = sweep(tools, server.target, load(texts, "--concurrency-range=1:5:2"))
    assert len(steps) == 3
    for figures in steps:
        check(figures)


@pytest.mark.parametrize(
    "options",
    [
        pytest.param([], id="one-thread-per-client"),
        pytest.param(["--async"], id="async"),
        pytest.param(["-b", "8"], id="batches"),
        pytest.param(["--grpc-compression-algorithm=gzip"], id="gzip"),
        pytest.param(["--grpc-compression-algorithm=deflate"], id="deflate"),
        pytest.param(["--request-parameter=timeout:60000000:int"], id="timeout"),
        pytest.param(["--request-parameter=priority:1:uint"], id="priority"),
        pytest.param(["--request-parameter=tenant:blue:string"], id="custom-parameter"),
        pytest.param(["-x", "1"], id="version"),
    ],
)
def test_every_way_of_sending_is_answered(
    tools: Tools, server: ServerProcess, texts: Path, options: list[str]
) -> None:
    check(run(tools, server.target, load(texts, *options)))


def test_requests_that_arrive_at_random_are_answered_at_their_rate(
    tools: Tools, server: ServerProcess, texts: Path
) -> None:
    options = ["--request-rate-range=40", "--request-distribution=poisson"]
    figures = run(tools, server.target, load(texts, *options))
    check(figures)
    assert figures.throughput_per_s <= 80


def test_an_unknown_model_is_refused_by_name(
    tools: Tools, server: ServerProcess, texts: Path
) -> None:
    made_up = Load(model="none", input_file=texts, window_ms=WINDOW_MS)
    with pytest.raises(LoadFailed, match="none"):
        run(tools, server.target, made_up)


def test_the_server_side_breakdown_is_printed(
    tools: Tools, server: ServerProcess, texts: Path
) -> None:
    for figures in sweep(tools, server.target, load(texts, "--concurrency-range=1:8:7")):
        check(figures)
        check_breakdown(figures)


@pytest.mark.parametrize("way", ["--sync", "--async", "--streaming"])
def test_texts_and_embeddings_go_through_shared_memory(
    tools: Tools, server: ServerProcess, texts: Path, way: str
) -> None:
    options = ["--shared-memory=system", f"--output-shared-memory-size={OUTPUT_BYTES}", way]
    figures = run(tools, server.target, load(texts, *options))
    check(figures)
    check_breakdown(figures)


def test_a_stream_is_answered(tools: Tools, server: ServerProcess, texts: Path) -> None:
    figures = run(tools, server.target, load(texts, "--streaming", "--async"))
    check(figures)
    check_breakdown(figures)
