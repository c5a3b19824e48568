"""Which runtime computes a model.

Owns the rule. The vectors of two int8 engines differ, and a collection is bound to the digest of
the file that made its vectors. So `auto` measures once and keeps the choice, however fast the
processor is later. The choice is made anew when the model's files change or the kept choice is
removed. When the kept engine cannot be had (OpenVINO was uninstalled), another one runs and the
kept choice stays. Collections made with the first engine then answer that other weights are loaded,
until that engine is back or they are re-indexed. To choose by hand, name the engine in
config.pbtxt. Must not know how engines work.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from vecserve_server.domain.rows import Json
from vecserve_server.encoding.measurements import Measurements


def choose_engine(
    digests: Mapping[str, str],
    *,
    kept: Measurements,
    measure_s: Callable[[str], float],
) -> str:
    """Return one of the engines in `digests`, which gives the digest of each one's file.

    `measure_s` returns how long an engine takes for a fixed piece of work. Where nothing can be
    kept, nothing is measured either: the last engine runs.
    """
    if len(digests) == 1:
        return next(iter(digests))
    key: dict[str, Json] = {"kind": "engine", "digests": dict(digests)}
    found = (kept.get(key) or {}).get("engine")
    if isinstance(found, str) and found in digests:
        return found
    preferred = list(digests)[-1]
    if not kept.put(key, {"engine": preferred}):
        return preferred
    seconds = {name: measure_s(name) for name in digests}
    fastest = min(seconds, key=seconds.__getitem__)
    kept.put(key, {"engine": fastest, "seconds": dict(seconds)})
    return fastest
