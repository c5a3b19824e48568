"""Words for the log that look like its own."""

from __future__ import annotations

import tritonclient.grpc as triton

from tests.e2e.triton_requests import MODEL, text_input
from tests.hostile.target import Target

FORGERIES = (
    "x\n2026-01-01T00:00:00.000Z error   app: core_died",
    "x\r\x1b[2K\x1b[31mforged",
    "x\u202e\u2066\u2028\x85\x9b31m",
)


def forged_lines(target: Target) -> None:
    """Requests whose ids hold line breaks, terminal codes and marks of direction, traced."""
    seen = len(target.server.log)
    with triton.InferenceServerClient(target.server.target) as client:
        client.update_trace_settings(settings={"trace_level": ["TIMESTAMPS"], "trace_rate": "1"})
        for forgery in FORGERIES:
            client.infer(MODEL, [text_input(["hello"])], request_id=forgery)
        client.update_trace_settings(settings={"trace_level": ["OFF"], "trace_rate": None})
    written = target.server.log[seen:]
    traces = [
        line for line in written.split("\n") if " trace request_id" in line or "trace:" in line
    ]
    assert len(traces) >= len(FORGERIES)
    assert all(line.isprintable() for line in written.split("\n"))
    assert not any(line.startswith("2026-01-01T00:00:00.000Z") for line in written.split("\n"))
