"""The aliases' file, whole and damaged."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vecserve_server.errors import ConfigError, CorruptData
from vecserve_server.storage.folders import aliases
from vecserve_server.storage.folders.aliases import read_aliases, write_aliases

_NAMES = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,20}", fullmatch=True)


@given(st.dictionaries(_NAMES, _NAMES, max_size=5))
def test_what_was_written_is_read_back(names: dict[str, str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        write_aliases(Path(folder) / "ALIASES", {"old": "gone"})
        write_aliases(Path(folder) / "ALIASES", names)
        assert read_aliases(Path(folder) / "ALIASES") == names


def test_no_file_means_no_aliases(tmp_path: Path) -> None:
    assert read_aliases(tmp_path / "ALIASES") == {}


def test_damage_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "ALIASES"
    write_aliases(path, {"products": "products-1"})
    path.write_bytes(path.read_bytes().replace(b"products-1", b"products-2"))
    with pytest.raises(CorruptData, match="ALIASES"):
        read_aliases(path)


def test_a_newer_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aliases, "_VERSION", 2)
    write_aliases(tmp_path / "ALIASES", {})
    monkeypatch.undo()
    with pytest.raises(ConfigError, match="version 2"):
        read_aliases(tmp_path / "ALIASES")
