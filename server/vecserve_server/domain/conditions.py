"""Conditions on the payload of a row, as data.

Owns what a filter can say and how large it may be. Must not know SQL or protocols.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, TypeAlias, TypeVar

Scalar: TypeAlias = bool | int | float | str | None

MAX_DEPTH = 8
"""Levels of conditions inside conditions."""
MAX_CONDITIONS = 256
MAX_JOINED = 64
"""Conditions in one `AllOf` or `AnyOf`."""
MAX_SCALARS = 4096
"""Scalars of all `OneOf` of one filter."""
MAX_ONE_OF = 1024
MAX_PREFIX_BYTES = 1024

B = TypeVar("B", int, float, str)


@dataclass(frozen=True, slots=True, kw_only=True)
class OneOf:
    """The field is one of these JSON scalars; 1 is 1.0, but neither "1" nor true."""

    field: str
    values: tuple[Scalar, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds(Generic[B]):
    """An interval; at least one bound is set."""

    gt: B | None = None
    gte: B | None = None
    lt: B | None = None
    lte: B | None = None

    def comparisons(self) -> list[tuple[str, B]]:
        """List the bounds that are set, each with its operator."""
        bounds = ((">", self.gt), (">=", self.gte), ("<", self.lt), ("<=", self.lte))
        return [(operator, bound) for operator, bound in bounds if bound is not None]


@dataclass(frozen=True, slots=True, kw_only=True)
class NumberIn:
    """The field is a number within the bounds."""

    field: str
    bounds: Bounds[float]


@dataclass(frozen=True, slots=True, kw_only=True)
class InstantIn:
    """The field is an RFC 3339 date or date-time within the bounds, in microseconds since 1970."""

    field: str
    bounds: Bounds[int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Exists:
    """The field is there, be it null, or is not."""

    field: str
    there: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class StartsWith:
    """The field is a string that begins so."""

    field: str
    beginning: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AllOf:
    """Every part holds."""

    parts: tuple[Condition, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class AnyOf:
    """At least one part holds."""

    parts: tuple[Condition, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Not:
    """The part does not hold."""

    part: Condition


Condition: TypeAlias = OneOf | NumberIn | InstantIn | Exists | StartsWith | AllOf | AnyOf | Not
