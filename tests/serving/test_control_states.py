"""However models are asked for, what serves is what was last asked for and can be loaded."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    rule,
)

from tests.serving.controlled_models import NAME, answer, controlled, write_config
from tests.serving.tiny_onnx import add_version
from vecserve_server.errors import ModelError
from vecserve_server.serving.model_control import ModelControl

VERSIONS = st.integers(1, 4)
"""Versions of the folder."""


async def test_what_serves_is_not_released_while_its_successor_cannot_serve(
    tmp_path: Path,
) -> None:
    add_version(tmp_path, NAME, 1)
    async with controlled(tmp_path, names=(NAME,)) as control:
        (tmp_path / NAME / "2").mkdir()
        with pytest.raises(ModelError):
            await control.load(NAME)
        control._lifecycle.release()
        assert await answer(control) == 1.0


class ModelStates(RuleBasedStateMachine):
    """One model in mode explicit, against a dictionary."""

    def __init__(self) -> None:
        super().__init__()
        self.root = Path(tempfile.mkdtemp())
        self.loop = asyncio.new_event_loop()
        self.context = controlled(self.root)
        self.control: ModelControl = self.loop.run_until_complete(self.context.__aenter__())
        self.folder: dict[int, float | None] = {}
        """What each version on disk adds; None for one that cannot be loaded."""
        self.latest = 1
        self.served: dict[int, float] = {}
        add_version(self.root, NAME, 9)  # so that there always is a model
        self.folder[9] = 9.0
        self.loop.run_until_complete(self.load())

    @rule(version=VERSIONS, addend=st.integers(10, 99))
    def write(self, version: int, addend: int) -> None:
        """Put a version there, or replace it."""
        shutil.rmtree(self.root / NAME / str(version), ignore_errors=True)
        add_version(self.root, NAME, version, addend=addend)
        self.folder[version] = float(addend)

    @rule(version=VERSIONS)
    def damage(self, version: int) -> None:
        (self.root / NAME / str(version)).mkdir(exist_ok=True)
        (self.root / NAME / str(version) / "model.onnx").write_bytes(b"damaged")
        self.folder[version] = None

    @rule(version=VERSIONS)
    def remove(self, version: int) -> None:
        shutil.rmtree(self.root / NAME / str(version), ignore_errors=True)
        self.folder.pop(version, None)

    @rule(latest=st.integers(1, 5))
    def choose(self, latest: int) -> None:
        write_config(self.root, f"version_policy {{ latest {{ num_versions: {latest} }} }}")
        self.latest = latest

    @rule()
    def reload(self) -> None:
        self.loop.run_until_complete(self.load())

    @rule()
    def release(self) -> None:
        """Let go of what nobody needs, as when a re-index has ended: nothing of what is served."""
        self.control._lifecycle.release()

    @rule()
    def unload(self) -> None:
        self.loop.run_until_complete(self.control.unload(NAME, unload_dependents=False))
        self.served = {}

    async def load(self) -> None:
        wanted = sorted(self.folder)[-self.latest :]
        damaged = [version for version in wanted if self.folder[version] is None]
        try:
            await self.control.load(NAME)
        except ModelError:
            assert damaged
        else:
            assert not damaged
        for version in wanted:
            addend = self.folder[version]
            if addend is not None:
                self.served[version] = addend
        if all(version in self.served for version in wanted):
            self.served = {version: self.served[version] for version in wanted}

    @invariant()
    def serves_what_it_should(self) -> None:
        async def answers() -> dict[int, float]:
            index = await self.control.index(ready_only=True)
            return {int(e.version): await answer(self.control, e.version) for e in index}

        assert self.loop.run_until_complete(answers()) == self.served
        assert self.control.is_ready(NAME, "") == bool(self.served)

    def teardown(self) -> None:
        self.loop.run_until_complete(self.context.__aexit__(None, None, None))
        self.loop.run_until_complete(self.loop.shutdown_default_executor())
        self.loop.close()
        shutil.rmtree(self.root)


ModelStates.TestCase.settings = settings(max_examples=30, stateful_step_count=15)
TestModelStates = ModelStates.TestCase
