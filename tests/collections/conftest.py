"""What tests of several services share."""

from __future__ import annotations

from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.collections.served_store import BOUNDS, Store


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    with ThreadPoolExecutor(BOUNDS.all_search_threads) as pool:
        made = Store(tmp_path / "data", pool)
        yield made
        await made.close()
