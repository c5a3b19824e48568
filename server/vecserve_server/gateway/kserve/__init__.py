"""inference.GRPCInferenceService: the KServe v2 and Triton protocol."""

from __future__ import annotations
