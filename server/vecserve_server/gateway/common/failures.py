"""What a caller is told of a failure, and what only the log is told.

Owns the line between the two: messages that name files of the server, the words of an engine, and
unexpected exceptions go to the log under an id; the caller gets the id. Must not know methods.
"""

from __future__ import annotations

import logging
import secrets

import grpc

from vecserve_server.errors import StorageError, VecserveError, is_for_caller
from vecserve_server.gateway.common.status_table import Dialect, WireStatus, code_of, wire_status


class Failures:
    """Render failures for the wire, and log those that the caller cannot mend."""

    def __init__(self, *, logger: logging.Logger) -> None:
        self._logger = logger

    def wire_status(self, method: str, error: Exception, dialect: Dialect) -> WireStatus:
        """Turn any exception into a status without a stack trace or a path."""
        if is_for_caller(error):
            return wire_status(error, dialect)
        error_id = secrets.token_hex(6)
        fields = {"method": method, "error_id": error_id}
        self._logger.error("call_failed", exc_info=error, extra={"fields": fields})
        kind = "storage error" if isinstance(error, StorageError) else "internal error"
        code = grpc.StatusCode.INTERNAL
        if isinstance(error, VecserveError):
            code = code_of(error, dialect)
        return WireStatus(code=code, message=f"{kind} {error_id}; the server's log has the details")
