"""Filling word indexes that were made after their rows, as when an older folder is opened.

Owns the one thread that does it, for one collection after the other. Must not know SQLite.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from vecserve_server.errors import VecserveError
from vecserve_server.observability.logging import get_logger, log_event


class Unfinished(Protocol):
    """Something with a word index that may lack rows."""

    def bring_words_forward(self) -> bool:
        """Do a piece of the work; return whether more is to do. Raises StorageError."""
        ...


class WordFilling:
    """A queue of word indexes to fill, one at a time; any thread."""

    def __init__(self, *, pause: Callable[[float], object] = time.sleep) -> None:
        """Leave as much time between two pieces, with `pause`, as a piece takes."""
        self._pause = pause
        self._changing = threading.Lock()
        self._waiting: deque[tuple[Path, Unfinished]] = deque()
        self._thread: threading.Thread | None = None

    def take(self, path: Path, log: Unfinished) -> None:
        """Fill the word index of a file of rows in the background; closing the file ends it."""
        with self._changing:
            self._waiting.append((path, log))
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="fill-words", daemon=True)
                self._thread.start()

    def settled(self, timeout_s: float) -> bool:
        """Wait until nothing is left to fill, not longer than that; return whether that is so."""
        with self._changing:
            thread = self._thread
        if thread is not None:
            thread.join(timeout_s)
        return thread is None or not thread.is_alive()

    def _run(self) -> None:
        while (found := self._next()) is not None:
            self._fill(*found)

    def _next(self) -> tuple[Path, Unfinished] | None:
        with self._changing:
            if self._waiting:
                return self._waiting.popleft()
            self._thread = None
            return None

    def _fill(self, path: Path, log: Unfinished) -> None:
        said = get_logger("words")
        log_event(said, logging.INFO, "words_begun", path=path)
        began_s = started_s = time.monotonic()
        try:
            while log.bring_words_forward():
                # Commits to all collections wait for one lock; it must not always be taken.
                now_s = time.monotonic()
                self._pause(now_s - started_s)
                started_s = time.monotonic()
        except VecserveError as error:
            # The next start goes on.
            log_event(said, logging.WARNING, "words_not_filled", path=path, reason=error)
            return
        log_event(said, logging.INFO, "words_filled", path=path, s=time.monotonic() - began_s)
