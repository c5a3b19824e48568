"""Settings: sources, precedence, refusals."""

from __future__ import annotations

from pathlib import Path

import pytest

from vecserve_server.errors import ConfigError
from vecserve_server.settings.settings import Settings, as_dict, known_keys, load_settings


def load(
    tmp_path: Path,
    toml: str = "",
    environ: dict[str, str] | None = None,
    **flags: object,
) -> Settings:
    path = tmp_path / "vecserve.toml"
    path.write_text(toml)
    dotted = {name.replace("__", "."): value for name, value in flags.items()}
    return load_settings(config_path=path, environ=environ or {}, flags=dotted)


def test_each_source_overrides_the_one_before(tmp_path: Path) -> None:
    toml = "[server]\nport = 1\n"
    assert load(tmp_path).server.port == 8001
    assert load(tmp_path, toml).server.port == 1
    assert load(tmp_path, toml, {"VECSERVE_SERVER_PORT": "2"}).server.port == 2
    assert load(tmp_path, toml, {"VECSERVE_SERVER_PORT": "2"}, server__port=3).server.port == 3


def test_flags_that_are_not_given_change_nothing(tmp_path: Path) -> None:
    assert load(tmp_path, server__port=None).server.port == 8001


def test_every_key_can_be_set_from_the_environment(tmp_path: Path) -> None:
    given = as_dict(load(tmp_path))
    for key in known_keys():
        section, _, name = key.partition(".")
        value = given[section][name]
        text = ",".join(value) if isinstance(value, tuple) else _text(value)
        environ = {f"VECSERVE_{section}_{name}".upper(): text}
        assert as_dict(load(tmp_path, environ=environ)) == given


@pytest.mark.parametrize(
    ("toml", "environ", "message"),
    [
        ("[server]\nprot = 1", {}, "server.prot is not a setting"),
        ("port = 1", {}, "settings stand in tables"),
        ("[server", {}, "not valid TOML"),
        ("[server]\nport = 'x'", {}, "server.port = 'x': must be a whole number"),
        ("[server]\nport = true", {}, "server.port = True"),
        ("[server]\nport = 70000", {}, "must lie between 0 and 65535"),
        ("", {"VECSERVE_SERVER_PROT": "1"}, "VECSERVE_SERVER_PROT is not a setting"),
        ("", {"VECSERVE_LOG_LEVEL": "loud"}, "must be one of debug, info, warning, error"),
        ("[server]\nport = 9\nmetrics_port = 9", {}, "is server.port already"),
        ("[storage]\ndata_dir = ''", {}, "must not be empty"),
        ("[limits]\nmax_pending_items = 10", {}, "exceeds limits.max_pending_items = 10"),
        ("[models]\nload = ['a']", {}, "is not in models.load"),
    ],
)
def test_what_makes_no_sense_refuses_to_start(
    tmp_path: Path, toml: str, environ: dict[str, str], message: str
) -> None:
    with pytest.raises(ConfigError, match=message.replace(".", r"\.")):
        load(tmp_path, toml, environ)


def test_a_missing_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        load_settings(config_path=tmp_path / "none.toml", environ={}, flags={})


def test_variables_of_other_programs_are_left_alone(tmp_path: Path) -> None:
    environ = {"VECSERVE_SERVER_TARGET": "x:1", "VECSERVE_TEST_DATA": "x", "PATH": "x"}
    assert load(tmp_path, environ=environ) == load(tmp_path)


@pytest.mark.parametrize("precision", ["", "int8", "fp32", "fp16"])
def test_every_precision_of_a_model_can_be_set_for_all(tmp_path: Path, precision: str) -> None:
    assert load(tmp_path, f"[models]\nprecision = '{precision}'").models.precision == precision


def _text(value: object) -> str:
    return "" if value is None else str(value)
