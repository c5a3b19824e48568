"""From a checkpoint to an optimised ONNX graph in the model repository."""

from __future__ import annotations
