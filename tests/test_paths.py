"""The way of a request through the server is short, and is the one that the documents tell.

Each hop is `module.Class.method`, below `vecserve_server`. It must name the method of the next hop,
and its module must name the next one's class: it imports it, or is given something of that type.
From the method of a protocol the way goes on in a class that has the same method.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from itertools import pairwise
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SERVER = ROOT / "server" / "vecserve_server"
SECTION = "Paths of a request"
MAX_HOPS = 6
EMBED = "services.collection_vectors.CollectionEmbedder.embed", "serving.embedder.Embedder.embed"
COMPUTE = "scheduling.compute.Compute.submit"
MODEL_INFER = (
    "gateway.kserve.servicer.InferenceServicer.ModelInfer",
    "gateway.kserve.infer.Inference.answer",
    "services.inference.TensorModel.infer",
)
PATHS = {
    "Embed": (
        "gateway.vecserve.embedding_servicer.EmbeddingServicer.Embed",
        "services.embedding.EmbeddingService.embed",
        "serving.embedder.Embedder.embed",
        COMPUTE,
        "scheduling.batcher.DynamicBatcher.submit",
    ),
    "Upsert, its vectors": (
        "gateway.vecserve.index_servicer.IndexServicer.Upsert",
        "services.indexing.IndexingService.upsert",
        *EMBED,
        COMPUTE,
    ),
    "Upsert, its rows": (
        "gateway.vecserve.index_servicer.IndexServicer.Upsert",
        "services.indexing.IndexingService.upsert",
        "collections.collection.Collection.write",
        "storage.rows.writer.RowWriter.submit",
    ),
    "Search, its query": (
        "gateway.vecserve.search_servicer.SearchServicer.Search",
        "services.searching.SearchingService.search",
        *EMBED,
        COMPUTE,
    ),
    "Search, its rows": (
        "gateway.vecserve.search_servicer.SearchServicer.Search",
        "services.searching.SearchingService.search",
        "collections.collection.Collection.retrieve",
        "collections.hits.retrieval.Retrieval.steps",
        "index.vectors.vector_index.VectorIndex.search",
    ),
    "ModelInfer, of texts": (
        *MODEL_INFER,
        "serving.text_model.TextInference.infer",
        "serving.embedder.Embedder.embed",
        COMPUTE,
    ),
    "ModelInfer, of any ONNX model": (
        *MODEL_INFER,
        "serving.onnx_model.OnnxInference.infer",
        COMPUTE,
        "scheduling.tensor_batcher.TensorBatcher.submit",
    ),
}


@cache
def source(module: str) -> ast.Module:
    path = SERVER.joinpath(*module.split(".")).with_suffix(".py")
    return ast.parse(path.read_text(encoding="utf-8"))


def parts(hop: str) -> tuple[str, str, str]:
    module, kind, method = hop.rsplit(".", 2)
    return module, kind, method


def named(tree: ast.AST) -> set[str]:
    """Return every name and attribute that occurs."""
    found = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    return found | {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}


def functions(module: str) -> dict[str, list[ast.AST]]:
    """Return the functions and methods of a module, and its classes as what they hold."""
    found: dict[str, list[ast.AST]] = {}
    for node in ast.walk(source(module)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found.setdefault(node.name, []).append(node)
    return found


def reached(module: str, kind: str, method: str) -> set[str]:
    """Return what a method names, itself or by way of helpers in its own module."""
    helpers = functions(module)
    first = next(
        node
        for one in helpers[kind]
        for node in ast.walk(one)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name == method
    )
    waiting, seen = [*named(first)], named(first)
    while waiting:
        for helper in helpers.get(waiting.pop(), ()):
            more = named(helper) - seen
            seen |= more
            waiting += more
    return seen


def imported(module: str) -> Iterator[tuple[str, str]]:
    """Yield the module and the name of all that a module imports from the server."""
    for node in ast.walk(source(module)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("vecserve_server."):
            for alias in node.names:
                yield str(node.module).removeprefix("vecserve_server."), alias.name


def is_given(module: str, wanted: tuple[str, str]) -> bool:
    """Tell whether a module imports a class, or a class with a field of that type."""
    found = set(imported(module))
    return wanted in found or any(
        wanted in set(imported(other)) and wanted[1] in named(node)
        for other, kind in found
        if SERVER.joinpath(*other.split(".")).with_suffix(".py").is_file()
        for node in functions(other).get(kind, ())
    )


def is_protocol(module: str, kind: str) -> bool:
    classes = [node for node in functions(module)[kind] if isinstance(node, ast.ClassDef)]
    return any("Protocol" in named(base) for node in classes for base in node.bases)


def members(module: str, kind: str) -> set[str]:
    """Return the methods of a class."""
    classes = [node for node in functions(module)[kind] if isinstance(node, ast.ClassDef)]
    return {
        method.name
        for node in classes
        for method in node.body
        if isinstance(method, ast.FunctionDef | ast.AsyncFunctionDef)
    }


@pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)
def test_each_hop_names_the_next(path: tuple[str, ...]) -> None:
    assert len(path) <= MAX_HOPS
    for here, there in pairwise(path):
        module, kind, method = parts(here)
        next_module, next_kind, next_method = parts(there)
        if next_method == method and is_protocol(module, kind):
            assert next_method in members(next_module, next_kind), there
            continue
        assert next_method in reached(module, kind, method), f"{here} does not call {there}"
        assert module == next_module or is_given(module, (next_module, next_kind)), there
    module, kind, method = parts(path[-1])
    assert method in members(module, kind)


def test_the_documents_tell_the_same_paths() -> None:
    text = (ROOT / "docs" / "ARCHITECTURE.md").read_text(encoding="utf-8")
    section = text.partition(f"## {SECTION}\n")[2].partition("\n## ")[0]
    lists = re.findall(r"^- \*\*([\w ,]+)\*\*: (`gateway\..*?)(?=^- |^$|\Z)", section, re.M | re.S)
    told = {name: tuple(re.findall(r"`([\w.]+)`", hops)) for name, hops in lists}
    assert told == PATHS
