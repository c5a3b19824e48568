"""The inference protocol's messages (package `inference`).

Owns nothing but generated code and its pool. `model_config_pb2` and `service_pb2` are messages
alone; only `service_pb2_grpc` imports gRPC.
"""

from __future__ import annotations
