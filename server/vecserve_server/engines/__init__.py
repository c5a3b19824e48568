"""What runs a graph: ONNX Runtime and OpenVINO, for text encoders and for any ONNX model."""

from __future__ import annotations
