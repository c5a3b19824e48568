"""Which runtime computes a model.

Owns the rule. The vectors of two int8 engines differ, and a collection is bound to the digest of
the file that made its vectors; so `auto` measures once and the choice is kept, whatever the
processor does later. It is made anew where the model's files change, or what was kept is removed.
Where the kept engine cannot be had (OpenVINO is not installed any more), the other one runs and
the choice stays: collections made with the first answer that other weights are loaded, until it is
back or they are re-indexed. To choose by hand, name the engine in config.pbtxt. Must not know how
engines work.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from vecserve_server.domain.rows import Json
from vecserve_server.encoding.measurements import Measurements

PREFERRED = ("openvino", "onnxruntime")
"""Where nothing can be kept, nothing is measured either: the first that can be had runs."""


def choose_engine(
    digests: Mapping[str, str],
    *,
    kept: Measurements,
    measure_s: Callable[[str], float],
) -> str:
    """Return one of the engines in `digests`, which gives the digest of each one's file.

    `measure_s` returns how long an engine takes for a fixed piece of work.
    """
    if len(digests) == 1:
        return next(iter(digests))
    key: dict[str, Json] = {"kind": "engine", "digests": dict(digests)}
    found = (kept.get(key) or {}).get("engine")
    if isinstance(found, str) and found in digests:
        return found
    preferred = next(name for name in PREFERRED if name in digests)
    if not kept.put(key, {"engine": preferred}):
        return preferred
    seconds = {name: measure_s(name) for name in digests}
    fastest = min(seconds, key=seconds.__getitem__)
    kept.put(key, {"engine": fastest, "seconds": dict(seconds)})
    return fastest
