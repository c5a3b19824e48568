"""An engine is added by a value: what it can do, and how it opens a file."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tokenizers

from tests.engines.toy_engine import TABLE, toy_engine
from vecserve_server.assembly import Pools, build_models
from vecserve_server.domain.tensors import TensorRequest
from vecserve_server.encoding.text_model import TextModelLoader
from vecserve_server.engines.engine import EncoderSupport
from vecserve_server.engines.registry import Engines, shipped_engines
from vecserve_server.errors import ModelError
from vecserve_server.gateway.common.admission import Admission
from vecserve_server.importing.config_template import render_config
from vecserve_server.model_files.card import ModelCard, digests_of, write_card
from vecserve_server.model_files.layout import TOKENIZER_FILE
from vecserve_server.observability.metrics import make_metrics
from vecserve_server.serving.load_turns import LoadPool
from vecserve_server.settings.model_settings import ModelSettings
from vecserve_server.settings.settings import Settings

NAME = "words"
WORDS = {"[UNK]": 0, "red": 1, "blue": 2, "shirt": 3}
VECTORS = np.array([[1, 1, 1], [3, 0, 4], [0, 3, 4], [0, 0, 2]], np.float32)
ENGINE = 'parameters { key: "engine" value { string_value: "%s" } }\n'
WITH_TOY = Engines((*shipped_engines().engines, toy_engine()))

WriteModel = Callable[[str], Path]


@pytest.fixture
def write_model(tmp_path: Path) -> WriteModel:
    """Write a model with the configured engine; return the repository."""

    def write(engine: str) -> Path:
        version = tmp_path / NAME / "1"
        version.mkdir(parents=True)
        np.save(version / TABLE, VECTORS)
        tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(WORDS, unk_token="[UNK]"))
        tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
        (version / TOKENIZER_FILE).write_text(tokenizer.to_str())
        card = ModelCard(
            name=NAME, version="1", dim=3, max_tokens=32, layout="padded", files=digests_of(version)
        )
        write_card(card, version)
        config = render_config(name=NAME, dim=3, max_tokens=32, precision="fp32", layout="padded")
        (version.parent / "config.pbtxt").write_text(config + ENGINE % engine)
        return tmp_path

    return write


@pytest.mark.parametrize("configured", ["toy", "auto"])
def test_a_text_encoder_runs_in_an_engine_that_was_added(
    write_model: WriteModel, configured: str
) -> None:
    model = TextModelLoader(write_model(configured), engines=WITH_TOY).load(NAME)
    texts = model.tokenizer.encode(["red", "red shirt"], max_tokens=32)
    vectors, norms = model.encoder.run([text.ids for text in texts])

    assert model.engine == "toy"
    np.testing.assert_allclose(norms, [5, np.hypot(1.5, 3)], rtol=1e-6)
    np.testing.assert_allclose(vectors[0], [0.6, 0, 0.8], rtol=1e-6)
    model.encoder.close()


async def test_a_server_serves_it(write_model: WriteModel) -> None:
    root = write_model("toy")
    metrics = make_metrics()
    with ExitStack() as stack, LoadPool() as loads:
        tokenise, tokenise_long, folders = (
            stack.enter_context(ThreadPoolExecutor(1)) for _ in range(3)
        )
        models = build_models(
            settings=Settings(models=ModelSettings(repository=root, default=NAME)),
            engines=WITH_TOY,
            pools=Pools(
                tokenise=tokenise, tokenise_long=tokenise_long, load=loads, folders=folders
            ),
            metrics=metrics,
            clock_ns=time.perf_counter_ns,
            in_use=lambda _: (),
            admission=Admission(max_pending_items=8, max_pending_bytes=1 << 20, metrics=metrics),
        )
        await models.control.start()
        with models.control.lease(NAME, "") as model:
            texts = np.array([[b"blue"], [b"shirt"]], object)
            reply = await model.infer(TensorRequest(inputs={"text": texts}))
            assert model.config.parameters["engine"].string_value == "toy"
        await models.control.close(10)

    expected = np.array([[0, 0.6, 0.8], [0, 0, 1]])
    np.testing.assert_allclose(reply.outputs["embedding"], expected, rtol=1e-6)


def test_an_engine_that_was_not_added_cannot_be_named(write_model: WriteModel) -> None:
    with pytest.raises(ModelError, match='must be "auto" or "onnxruntime", found "toy"'):
        TextModelLoader(write_model("toy"), engines=shipped_engines()).load(NAME)


PADDED, PACKED = frozenset({"padded"}), frozenset({"packed"})
UNABLE = {
    "another layout": EncoderSupport(layouts=PACKED, files={"fp32": (TABLE,)}),
    "another precision": EncoderSupport(layouts=PADDED, files={"int8": (TABLE,)}),
    "a file that the version lacks": EncoderSupport(layouts=PADDED, files={"fp32": ("x.plan",)}),
    "another device": EncoderSupport(
        layouts=PADDED, files={"fp32": (TABLE,)}, devices=frozenset({"gpu"})
    ),
}


@pytest.mark.parametrize("support", UNABLE.values(), ids=UNABLE)
def test_an_engine_is_asked_only_for_what_it_can_do(
    write_model: WriteModel, support: EncoderSupport
) -> None:
    engines = Engines((*shipped_engines().engines, replace(toy_engine(), encoders=support)))
    with pytest.raises(ModelError, match="was not built in precision fp32 for toy"):
        TextModelLoader(write_model("toy"), engines=engines).load(NAME)


def test_an_accelerator_is_named_in_tritons_list_of_its_kind(write_model: WriteModel) -> None:
    root = write_model("auto")
    config = root / NAME / "config.pbtxt"
    named = 'optimization { execution_accelerators { gpu_execution_accelerator { name: "toy" } } }'
    config.write_text(config.read_text().replace(ENGINE % "auto", named))
    accelerator = Engines((replace(toy_engine(), accelerator="gpu"),))

    model = TextModelLoader(root, engines=accelerator).load(NAME)
    assert model.engine == "toy"
    model.encoder.close()
