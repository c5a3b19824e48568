"""Models that come and go: which are wanted, how a version loads, serves and retires.

The life of a version:
1. `ModelControl` finds its files in the repository or in a request, and says what is wanted.
2. `ModelLifecycle` loads what is new by `ModelLoading`, through the `VersionLoader` of its kind.
3. The `LoadedVersion` stands in its `ModelRecord` in the `Catalog`, and serves both protocols from
   there; its `infer` is counted and, where asked for, cached.
4. A successor or an unload takes it out of the record; whoever leased it may end what was begun.
5. When its last lease is given back, or after `drain_s`, it is closed.
"""

from __future__ import annotations
