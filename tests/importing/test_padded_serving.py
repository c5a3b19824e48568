"""A ready-made model is served in padded batches, with the vectors that it has."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

from tests.importing.test_ready_made import graph_file, repository, source, token_states  # noqa: F401 - fixtures
from tests.importing.tiny_bert import CheckpointFiles
from tests.importing.tiny_families import pooled, sequences
from tests.text_models import text_models
from vecserve_server.encoding import loading
from vecserve_server.engines.openvino.runtime import openvino_is_installed
from vecserve_server.errors import ModelError
from vecserve_server.importing.importer import import_model
from vecserve_server.importing.quantise.sample_run import open_session, run_together
from vecserve_server.model_files.card import read_card


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
    model = text_models(repository, default_instances=2).load("tiny", engine=engine)

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
    model = text_models(repository).load("tiny")
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
        text_models(repository).load("tiny")


def quantise_dynamically(file: Path) -> None:
    """Let codes stand in for states, of a scale that follows from the largest in the batch."""
    model = onnx.load(file)
    [node] = [node for node in model.graph.node if node.output[0] == "last_hidden_state"]
    [states] = node.input
    place = list(model.graph.node).index(node)
    node.input[0] = "decoded"
    codes, scale = ["codes", "scale", "zero"], ["codes", "scale", "zero"]
    model.graph.node.insert(place, helper.make_node("DequantizeLinear", scale, ["decoded"]))
    model.graph.node.insert(place, helper.make_node("DynamicQuantizeLinear", [states], codes))
    onnx.save(model, file)


def count_padding(file: Path) -> None:
    """Let padding count among the tokens of which a vector is the mean."""
    graph_file(file, output="sentence_embedding", mean=True)


@pytest.fixture(params=["dynamic int8", "padding counts"])
def dependent(request: pytest.FixtureRequest, source: Path) -> Path:  # noqa: F811
    """A checkpoint whose texts change each other's vectors."""
    file = source / "model.onnx"
    if request.param == "dynamic int8":
        graph_file(file)
        quantise_dynamically(file)
    else:
        count_padding(file)
    return source


def change(repository: Path, old: str, new: str) -> None:  # noqa: F811
    config = repository / "tiny" / "config.pbtxt"
    text = config.read_text("utf-8")
    assert old in text
    config.write_text(text.replace(old, new), encoding="utf-8")


RUN_ALONE = 'parameters { key: "run_alone" value { string_value: "true" } }'


def test_texts_that_change_each_other_run_alone(
    dependent: Path,
    repository: Path,  # noqa: F811
    caplog: pytest.LogCaptureFixture,
) -> None:
    card = import_model(source=dependent, repository=repository, name="tiny")

    assert card.run_alone
    assert card.parity["fp32"].batch_cosine_min < 0.999999
    assert read_card(repository / "tiny" / "1") == card
    for said_by in ("configuration", "trial"):
        if said_by == "trial":  # as of a model that was imported otherwise, or placed by hand
            change(repository, RUN_ALONE, "")
        model = text_models(repository).load("tiny")
        together = model.encoder.run(sequences()).vectors
        alone = np.concatenate([model.encoder.run([ids]).vectors for ids in sequences()])
        np.testing.assert_array_equal(together, alone)
        assert model.proto.parameters["run_alone"].string_value == "true"
        assert model.encoder.together([9, 9, 9]) == (0,)
        session = open_session(repository / "tiny" / "1" / "model.onnx")
        own = np.concatenate([run_together(session, [ids])[0] for ids in sequences()])
        np.testing.assert_allclose(alone, own, atol=1e-6)
        model.encoder.close()
    assert "texts_run_alone" in caplog.text


def test_a_configuration_may_let_them_share_runs(
    dependent: Path,
    repository: Path,  # noqa: F811
) -> None:
    import_model(source=dependent, repository=repository, name="tiny")
    change(repository, RUN_ALONE, RUN_ALONE.replace("true", "false"))

    model = text_models(repository).load("tiny")

    together = model.encoder.run(sequences()).vectors
    alone = np.concatenate([model.encoder.run([ids]).vectors for ids in sequences()])
    assert np.abs(together - alone).max() > 1e-4
    model.encoder.close()


def test_texts_that_do_not_change_each_other_share_runs(
    source: Path,  # noqa: F811
    repository: Path,  # noqa: F811
) -> None:
    graph_file(source / "model.onnx", more_inputs=["token_type_ids", "position_ids"])

    card = import_model(source=source, repository=repository, name="tiny")

    assert not card.run_alone
    assert "run_alone" not in (repository / "tiny" / "config.pbtxt").read_text("utf-8")
    model = text_models(repository).load("tiny")
    assert model.proto.parameters["run_alone"].string_value == "false"
    assert len(model.encoder.together([9, 9, 9])) == 3
    model.encoder.close()


def test_one_trial_is_enough(dependent: Path, repository: Path) -> None:  # noqa: F811
    import_model(source=dependent, repository=repository, name="tiny")
    change(repository, RUN_ALONE, "")
    text_models(repository).load("tiny").encoder.close()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loading, "likeness", None)
        model = text_models(repository).load("tiny")

    assert model.proto.parameters["run_alone"].string_value == "true"
    model.encoder.close()


def test_packed_models_are_not_asked(tmp_path: Path, repository: Path) -> None:  # noqa: F811
    packed = CheckpointFiles().write(tmp_path / "packed")
    import_model(source=packed, repository=repository, name="tiny", precisions=("fp32",))
    with (repository / "tiny" / "config.pbtxt").open("a", encoding="utf-8") as config:
        config.write(RUN_ALONE)

    with pytest.raises(ModelError, match=r'parameter "run_alone" is for the layout "padded"'):
        text_models(repository).load("tiny")
