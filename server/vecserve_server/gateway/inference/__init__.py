"""inference.GRPCInferenceService: the KServe v2 / Triton protocol."""

from __future__ import annotations
