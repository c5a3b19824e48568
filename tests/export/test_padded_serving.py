"""A ready-made model is served in padded batches, with the vectors that it has."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from vecserve_server.encoding.model_repository import ModelRepository
from vecserve_server.encoding.openvino_runtime import openvino_is_installed
from vecserve_server.errors import ModelError
from vecserve_server.export.importer import import_model

from .test_ready_made import graph_file, repository, source, token_states  # noqa: F401 - fixtures
from .tiny_families import pooled, sequences


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("more_inputs", [[], ["token_type_ids"], ["position_ids"]])
def test_a_ready_made_model_gives_its_vectors(
    source: Path,  # noqa: F811
    repository: Path,  # noqa: F811
    engine: str,
    more_inputs: list[str],
) -> None:
    if engine == "openvino" and not openvino_is_installed():
        pytest.skip("OpenVINO is not installed (it is for x86-64 only)")
    graph_file(source / "model.onnx", more_inputs=more_inputs)
    import_model(source=source, repository=repository, name="tiny")
    model = ModelRepository(repository, default_instances=2).load("tiny", engine=engine)

    vectors, norms = model.encoder.run(sequences())
    alone = np.concatenate([model.encoder.run([ids]).vectors for ids in sequences()])

    with_places = "position_ids" in more_inputs
    exact = [pooled(token_states(ids, positions=with_places), "mean") for ids in sequences()]
    np.testing.assert_allclose(vectors * norms[:, None], exact, atol=1e-4)
    np.testing.assert_allclose(alone, vectors, atol=1e-5)
    assert (model.config.layout, model.config.normalise) == ("padded", False)
    model.encoder.close()


def test_a_longest_text_fits(source: Path, repository: Path) -> None:  # noqa: F811
    graph_file(source / "model.onnx", more_inputs=["position_ids"])
    import_model(source=source, repository=repository, name="tiny")
    model = ModelRepository(repository).load("tiny")
    ids = np.arange(model.config.max_tokens) % 50

    assert model.config.max_tokens == 200
    assert np.isfinite(model.encoder.run([ids, ids[:3]]).vectors).all()
    model.encoder.close()


def test_a_configuration_of_the_other_layout_is_refused(
    source: Path,  # noqa: F811
    repository: Path,  # noqa: F811
) -> None:
    graph_file(source / "model.onnx")
    import_model(source=source, repository=repository, name="tiny")
    config = repository / "tiny" / "config.pbtxt"
    text = config.read_text("utf-8")
    assert '"padded"' in text
    config.write_text(text.replace('"padded"', '"packed"'), encoding="utf-8")

    with pytest.raises(ModelError, match=r"input_ids, .*not the layout packed"):
        ModelRepository(repository).load("tiny")
