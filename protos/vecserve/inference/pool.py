"""Where the messages of the inference protocol are registered.

A pool holds a name once for a whole process. Clients such as tritonclient register the same names
in protobuf's default pool, so these have one of their own.
"""

from __future__ import annotations

from typing import Final

from google.protobuf.descriptor_pool import DescriptorPool

POOL: Final = DescriptorPool()
