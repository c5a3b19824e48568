"""The progress bar of rows on their way to the server.

Owns how it looks. Must not know what is written.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)


class RowProgress:
    """A bar on standard error with rows, rate and time left; silent where nobody watches."""

    def __init__(self, *, total_bytes: int | None, silent: bool) -> None:
        console = Console(stderr=True)
        self._bar = Progress(
            TextColumn("{task.fields[rows]:>7} rows"),
            BarColumn(bar_width=30),
            TextColumn("{task.fields[rate]:>6.0f} rows/s"),
            TimeRemainingColumn(compact=True),
            console=console,
            disable=silent or not console.is_terminal,
            transient=True,
        )
        self._task = self._bar.add_task("", total=total_bytes, rows=0, rate=0.0)
        self._started = time.monotonic()

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bar.stop()

    def update(self, *, rows: int, done_bytes: int, total_bytes: int | None = None) -> None:
        """Move the bar: rows written and how much of the source is used so far."""
        rate = rows / max(time.monotonic() - self._started, 1e-9)
        self._bar.update(self._task, completed=done_bytes, total=total_bytes, rows=rows, rate=rate)


@contextmanager
def waiting(what: str, *, silent: bool) -> Iterator[None]:
    """Show on standard error that something is being done, and for how long."""
    console = Console(stderr=True)
    columns = (SpinnerColumn(), TextColumn(what), TimeElapsedColumn())
    disable = silent or not console.is_terminal
    with Progress(*columns, console=console, disable=disable, transient=True) as bar:
        bar.add_task(what, total=None)
        yield
