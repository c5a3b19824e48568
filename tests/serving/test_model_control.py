"""Model control over real ONNX models: what is asked for serves, and nobody's request fails."""

from __future__ import annotations

import asyncio
import gc
import shutil
import weakref
from functools import partial
from pathlib import Path

import pytest

from tests.serving.controlled_models import (
    NAME,
    PATIENCE_S,
    READY,
    UNAVAILABLE,
    Gate,
    answer,
    ask,
    controlled,
    eventually,
    eventually_states,
    is_served,
    states,
    write_config,
)
from tests.serving.tiny_onnx import add_version, graph_bytes
from vecserve_server.domain.models import ModelEntry, ModelState
from vecserve_server.errors import (
    Draining,
    FailedPrecondition,
    InvalidArgument,
    ModelError,
    ModelUnavailable,
    NotFound,
    Overloaded,
)
from vecserve_server.serving.model_control import ControlMode


@pytest.mark.parametrize(
    ("policy", "served"),
    [
        ("", ["10"]),
        ("version_policy { latest { num_versions: 2 } }", ["2", "10"]),
        ("version_policy { all { } }", ["1", "2", "10"]),
        ("version_policy { specific { versions: [ 1, 10, 11 ] } }", ["1", "10"]),
    ],
)
async def test_the_version_policy_says_what_serves(
    tmp_path: Path, policy: str, served: list[str]
) -> None:
    for version in (1, 2, 10):
        add_version(tmp_path, NAME, version)
    write_config(tmp_path, policy)
    async with controlled(tmp_path, mode="none") as control:
        entries = await control.index(ready_only=True)
        assert entries == [ModelEntry(NAME, version, READY, "") for version in served]
        assert [await answer(control, version) for version in served] == [float(v) for v in served]
        assert await answer(control) == float(served[-1])


async def test_a_lease_keeps_a_retired_version_open_and_unload_waits_for_it(
    tmp_path: Path,
) -> None:
    add_version(tmp_path, NAME, 1)
    async with controlled(tmp_path, names=(NAME,)) as control:
        with control.lease(NAME, "") as model:
            unload = asyncio.create_task(control.unload(NAME, unload_dependents=False))
            await eventually(lambda: not control.is_ready(NAME, ""))
            assert await states(control) == {"1": ModelState.UNLOADING}
            with pytest.raises(NotFound, match="has no available"), control.lease(NAME, ""):
                pass
            with pytest.raises(ModelUnavailable, match="it is unloading"), control.lease(NAME, "1"):
                pass
            assert await ask(model) == 1.0
            assert not unload.done()
        await unload
        assert await states(control) == {"1": UNAVAILABLE}


async def test_a_lease_that_never_ends_is_waited_for_within_a_bound(tmp_path: Path) -> None:
    add_version(tmp_path, NAME, 1)
    async with controlled(tmp_path, names=(NAME,), drain_s=0.05) as control:
        with control.lease(NAME, ""):
            await asyncio.wait_for(control.unload(NAME, unload_dependents=False), PATIENCE_S)
            assert await states(control) == {"1": UNAVAILABLE}


async def test_requests_see_the_old_version_or_the_new_one_and_nothing_between(
    tmp_path: Path,
) -> None:
    add_version(tmp_path, NAME, 1)
    answers: list[float] = []
    async with controlled(tmp_path, mode="poll") as control:

        async def keep_asking() -> None:
            while answers[-1:] != [6.0]:
                with control.lease(NAME, "") as model:
                    answers.append(await ask(model))
                    assert answers[-1] == float(model.version)

        asking = asyncio.gather(*(keep_asking() for _ in range(4)))
        for version in range(2, 7):
            await eventually(partial(answers.__contains__, float(version - 1)))
            add_version(tmp_path, NAME, version)
        await asyncio.wait_for(asking, PATIENCE_S)
    assert set(answers) == {1.0, 2.0, 3.0, 4.0, 5.0, 6.0}


async def test_a_version_in_progress_of_being_copied_is_left_alone(tmp_path: Path) -> None:
    add_version(tmp_path, NAME, 1)
    async with controlled(tmp_path, mode="poll") as control:
        (tmp_path / NAME / "2").mkdir()
        await eventually_states(control, {"1": READY, "2": UNAVAILABLE})
        assert await answer(control) == 1.0
        (tmp_path / NAME / "2" / "model.onnx").write_bytes(graph_bytes(2))
        await eventually(is_served(control, "2"))
        assert await answer(control) == 2.0


async def test_a_model_that_comes_and_goes_leaves_nothing_behind(tmp_path: Path) -> None:
    async with controlled(tmp_path, mode="poll") as control:
        assert await control.index(ready_only=False) == []
        add_version(tmp_path, NAME, 1)
        await eventually(is_served(control, "1"))
        shutil.rmtree(tmp_path / NAME)
        await eventually(lambda: not control.is_ready(NAME, ""))
        await eventually_states(control, {})
        with pytest.raises(NotFound):
            await control.statistics(NAME, "")


async def test_a_model_whose_folder_is_gone_for_a_moment_goes_on_serving(tmp_path: Path) -> None:
    add_version(tmp_path, NAME, 1)
    async with controlled(tmp_path, mode="poll", poll_s=3600) as control:
        present = await control._follow(await control._scan())
        (tmp_path / NAME).rename(tmp_path / ".gone")
        missing = await control._follow(present)
        assert await answer(control) == 1.0
        (tmp_path / ".gone").rename(tmp_path / NAME)
        await control._follow(missing)
        assert await answer(control) == 1.0


async def test_a_failed_reload_leaves_what_serves_and_says_why(tmp_path: Path) -> None:
    add_version(tmp_path, NAME, 1)
    async with controlled(tmp_path, names=(NAME,)) as control:
        (tmp_path / NAME / "1" / "model.onnx").write_bytes(b"no graph")
        with pytest.raises(ModelError):
            await control.load(NAME)
        [entry] = await control.index(ready_only=False)
        assert entry.state == READY
        assert "model.onnx" in entry.reason
        assert await answer(control) == 1.0
        (tmp_path / NAME / "1" / "model.onnx").write_bytes(graph_bytes(5))
        await control.load(NAME)
        assert await control.index(ready_only=False) == [ModelEntry(NAME, "1", READY, "")]
        assert await answer(control) == 5.0


async def test_a_load_without_a_change_loads_nothing(tmp_path: Path) -> None:
    add_version(tmp_path, NAME, 1)
    async with controlled(tmp_path, names=(NAME,)) as control:
        with control.lease(NAME, "") as before:
            await control.load(NAME)
            with control.lease(NAME, "") as after:
                assert after is before


async def test_configuration_and_files_come_with_a_request_and_go_with_the_next(
    tmp_path: Path,
) -> None:
    add_version(tmp_path, NAME, 1)
    async with controlled(tmp_path, names=(NAME,)) as control:
        await control.load(NAME, '{"max_batch_size": 3}')
        with control.lease(NAME, "") as model:
            assert model.config.max_batch_size == 3
        await control.load(NAME, "{}", {"4/model.onnx": graph_bytes(40)})
        await eventually_states(control, {"4": READY})
        assert await answer(control) == 40.0
        await control.load(NAME)
        assert await answer(control) == 1.0
        await eventually_states(control, {"1": READY})


@pytest.mark.parametrize(
    ("config", "files", "message"),
    [
        (None, {"1/model.onnx": b""}, "config: is missing"),
        ("{", {}, "config"),
        ('{"no_such_field": 1}', {}, "no_such_field"),
        ('{"name": "other"}', {}, "other"),
        ("{}", {"../1/model.onnx": b""}, "must be file:<version>/<path>"),
        ("{}", {"1/../../x": b""}, "must be file:<version>/<path>"),
        ("{}", {"/1/x": b""}, "must be file:<version>/<path>"),
        ("{}", {"": b""}, "must be file:<version>/<path>"),
        ("{}", {".": b""}, "must be file:<version>/<path>"),
        ("{}", {"1/a\0b": b""}, "must be file:<version>/<path>"),
        ("{}", {"0/x": b""}, "must be file:<version>/<path>"),
        ("{}", {"1": b""}, "must be file:<version>/<path>"),
        ("{}", {"1/x": b"", "1/x/y": b""}, "files cannot be stored"),
    ],
)
async def test_a_malformed_load_is_refused_and_changes_nothing(
    tmp_path: Path, config: str | None, files: dict[str, bytes], message: str
) -> None:
    add_version(tmp_path, NAME, 1)
    async with controlled(tmp_path, names=(NAME,)) as control:
        with pytest.raises(InvalidArgument, match=message):
            await control.load(NAME, config, files)
        assert await answer(control) == 1.0


async def test_what_does_not_exist_is_not_found(tmp_path: Path) -> None:
    add_version(tmp_path, NAME, 1)
    async with controlled(tmp_path, names=(NAME,)) as control:
        with pytest.raises(NotFound, match="'none': it is not in the model repository"):
            await control.load("none")
        await control.unload("none", unload_dependents=True)
        for name in ("../x", "", ".hidden"):
            with pytest.raises(InvalidArgument):
                await control.load(name)
        for name, version in (("none", ""), (NAME, "2")):
            with (
                pytest.raises(NotFound, match=f"model '{name}': .*not found"),
                control.lease(name, version),
            ):
                pass
        with pytest.raises(NotFound):
            await control.statistics("none", "")
        with pytest.raises(InvalidArgument, match="version 2 of 'add' does not serve"):
            await control.statistics(NAME, "2")
        await control.unload(NAME, unload_dependents=False)
        with pytest.raises(InvalidArgument, match="no version of model 'add' serves"):
            await control.statistics(NAME, "")
        with pytest.raises(InvalidArgument), control.lease(NAME, "latest"):
            pass


@pytest.mark.parametrize("mode", ["none", "poll"])
async def test_requests_change_nothing_in_other_modes(tmp_path: Path, mode: ControlMode) -> None:
    add_version(tmp_path, NAME, 1)
    async with controlled(tmp_path, mode=mode) as control:
        with pytest.raises(FailedPrecondition):
            await control.load(NAME)
        with pytest.raises(FailedPrecondition):
            await control.unload(NAME, unload_dependents=False)


async def test_a_damaged_model_is_left_out_unless_it_is_asked_for_by_name(tmp_path: Path) -> None:
    add_version(tmp_path, NAME, 1)
    (tmp_path / "broken" / "1").mkdir(parents=True)
    async with controlled(tmp_path, mode="none") as control:
        entries = {entry.name: entry for entry in await control.index(ready_only=False)}
        assert entries[NAME].state == READY
        assert entries["broken"].state == UNAVAILABLE
        assert "model.onnx is missing" in entries["broken"].reason
    with pytest.raises(ModelError, match=r"model\.onnx is missing"):
        async with controlled(tmp_path, mode="none", names=("broken",)):
            pass


async def test_every_version_counts_for_itself(tmp_path: Path) -> None:
    add_version(tmp_path, NAME, 1)
    add_version(tmp_path, NAME, 2)
    write_config(tmp_path, "version_policy { all { } }")
    async with controlled(tmp_path, mode="none") as control:
        for version in ("1", "2", "2", ""):
            await answer(control, version)
        counted = {m.version: m.counted for m in await control.statistics("", "")}
        assert {v: m.inference_count for v, m in counted.items()} == {"1": 1, "2": 3}
        assert {v: m.success.count for v, m in counted.items()} == {"1": 1, "2": 3}
        assert [m.version for m in await control.statistics(NAME, "2")] == ["2"]


async def test_nothing_of_an_unloaded_model_stays_in_memory(tmp_path: Path) -> None:
    add_version(tmp_path, NAME, 1)
    async with controlled(tmp_path, names=(NAME,)) as control:
        with control.lease(NAME, "") as model:
            assert await ask(model) == 1.0
            remains = weakref.ref(model.infer)
        del model
        await control.unload(NAME, unload_dependents=False)
        gc.collect()
        assert remains() is None


async def test_changes_are_bounded_and_those_that_wait_go_with_their_callers(
    tmp_path: Path,
) -> None:
    for name in (NAME, "other"):
        add_version(tmp_path, name, 1)
    gate = Gate()
    async with controlled(tmp_path, max_changes=2) as control:
        gate.hold(control)
        asked = [asyncio.create_task(control.load(name)) for name in (NAME, "other")]
        await gate.wait_for_a_load()
        for act in (control.load(NAME), control.unload(NAME, unload_dependents=False)):
            with pytest.raises(Overloaded, match="2 loads and unloads at once are the limit"):
                await act
        await eventually(lambda: control._lifecycle.models["other"].version("1").loading)
        for one in asked:
            one.cancel()
        await eventually(lambda: control.changes == 1)
        gate.opened.set()
        await eventually(is_served(control, "1"))
        await eventually(lambda: not control.changes)
        assert gate.loaded == [NAME], "what had begun was seen through, and that alone"
        await control.load("other")


async def test_the_end_of_the_server_closes_what_still_drains(tmp_path: Path) -> None:
    add_version(tmp_path, NAME, 1)
    async with controlled(tmp_path, names=(NAME,)) as control:
        await control.load(NAME, "{}", {"4/model.onnx": graph_bytes(40)})
        lease = control.lease(NAME, "4")
        model = lease.__enter__()
        unload = asyncio.create_task(control.unload(NAME, unload_dependents=False))
        await eventually(lambda: not control.is_ready(NAME, "4"))
        await control.close(PATIENCE_S)
        with pytest.raises(asyncio.CancelledError):
            await unload
        with pytest.raises(Draining):
            await ask(model)
