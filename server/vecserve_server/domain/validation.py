"""What a request's fields may hold.

Owns the checks that every protocol shares. Pure; each failure is an InvalidArgument that names
the field and the limit.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vecserve_server.domain.names import NAME_PATTERN
from vecserve_server.domain.vectors import Vectors
from vecserve_server.errors import FieldPath, InvalidArgument

MAX_FIELD_BYTES = 128
DEFAULT_K = 10
DEFAULT_PAGE_SIZE, MAX_PAGE_SIZE = 100, 1000
CONTROL_CHARACTERS = re.compile(r"[\x00-\x1f\x7f]")
MAX_JSON_DEPTH = 32
# Below it, scaling to length 1 would turn float32 rounding into direction.
MIN_NORM = 1e-12


def check_name(field: str | FieldPath, name: str) -> str:
    """Accept the name of a collection or alias."""
    if not NAME_PATTERN.fullmatch(name):
        raise InvalidArgument(
            field,
            f"{name[:140]!r} is not a name: 1 to 128 characters of A-Z a-z 0-9 . _ -, "
            "beginning with a letter or digit",
        )
    return name


def check_count(field: str | FieldPath, count: int, *, limit: int) -> None:
    """Accept the length of a batch, 1 to `limit`."""
    if count == 0:
        raise InvalidArgument(field, f"is empty; 1 to {limit} items are allowed")
    if count > limit:
        raise InvalidArgument(field, f"has {count} items; the limit is {limit}")


def check_text(field: str | FieldPath, text: str, *, limit_bytes: int) -> str:
    """Accept a text by its size in UTF-8."""
    # A character takes 1 to 4 bytes, so most texts need no encoding to be measured.
    size_bytes = len(text) if len(text) * 4 <= limit_bytes else len(text.encode())
    if size_bytes > limit_bytes:
        raise InvalidArgument(field, f"has {size_bytes} bytes; the limit is {limit_bytes}")
    return text


def check_id(field: str | FieldPath, row_id: str, *, limit_bytes: int) -> str:
    """Accept a row's id."""
    size_bytes = len(row_id.encode())
    if not 1 <= size_bytes <= limit_bytes:
        raise InvalidArgument(field, f"has {size_bytes} bytes; 1 to {limit_bytes} are allowed")
    if CONTROL_CHARACTERS.search(row_id):
        raise InvalidArgument(field, "holds a control character")
    return row_id


def check_payload(field: str | FieldPath, payload_json: str, *, limit_bytes: int) -> str:
    """Accept a payload: empty, or a JSON object; return it without needless white space."""
    if not payload_json:
        return "{}"
    size_bytes = len(payload_json.encode())
    if size_bytes > limit_bytes:
        raise InvalidArgument(field, f"has {size_bytes} bytes; the limit is {limit_bytes}")
    payload = parse_json(field, payload_json)
    if not isinstance(payload, dict):
        raise InvalidArgument(field, "must be a JSON object")
    if json_depth(payload) > MAX_JSON_DEPTH:
        raise InvalidArgument(field, f"is nested deeper than {MAX_JSON_DEPTH} levels")
    return _compact(field, payload)


def parse_json(field: str | FieldPath, text: str) -> Any:
    """Parse JSON, without the NaN and Infinity that Python takes."""
    try:
        return json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise InvalidArgument(field, f"is not valid JSON: {error}") from None


def json_depth(value: object) -> int:
    """Count the levels of a JSON value, 1 for a scalar; stops above the limit of payloads."""
    deepest, level = 0, [value]
    while level and deepest <= MAX_JSON_DEPTH:
        deepest += 1
        level = [child for node in level for child in _children(node)]
    return deepest


def check_vector(field: str | FieldPath, vector: NDArray[Any], *, dim: int) -> Vectors:
    """Accept a vector [D] and scale it to length 1."""
    if vector.shape != (dim,):
        raise InvalidArgument(field, f"has {vector.size} components; the collection has {dim}")
    exact = vector.astype(np.float64)
    if not np.isfinite(exact).all():
        raise InvalidArgument(field, "holds NaN or infinity; every component must be finite")
    norm = float(np.linalg.norm(exact))
    if norm < MIN_NORM:
        raise InvalidArgument(field, f"has length {norm:g}; it must be at least {MIN_NORM:g}")
    return (exact / norm).astype(np.float32)


def check_field_name(field: str | FieldPath, name: str) -> str:
    """Accept the dotted name of a payload field."""
    size_bytes = len(name.encode())
    if not 1 <= size_bytes <= MAX_FIELD_BYTES:
        raise InvalidArgument(field, f"has {size_bytes} bytes; 1 to {MAX_FIELD_BYTES} are allowed")
    if CONTROL_CHARACTERS.search(name) or '"' in name or "\\" in name:
        raise InvalidArgument(field, "holds a quote, a backslash or a control character")
    if not all(name.split(".")):
        raise InvalidArgument(field, f"{name!r} has an empty part; dots separate keys")
    return name


def check_page_size(asked: int) -> int:
    """Resolve a page size; 0 asks for the default."""
    if asked > MAX_PAGE_SIZE:
        raise InvalidArgument("page_size", f"is {asked}; the limit is {MAX_PAGE_SIZE}")
    return asked or DEFAULT_PAGE_SIZE


def check_k(field: str | FieldPath, asked: int, *, limit: int) -> int:
    """Resolve how many hits to return; 0 asks for the default."""
    if asked > limit:
        raise InvalidArgument(field, f"is {asked}; the limit is {limit}")
    return asked or min(DEFAULT_K, limit)


def check_request_id(request_id: str) -> str:
    """Accept a request id of at most 128 bytes."""
    if len(request_id.encode()) > 128:
        raise InvalidArgument(
            "request_id", f"has {len(request_id.encode())} bytes; the limit is 128"
        )
    return request_id


def _compact(field: str | FieldPath, payload: object) -> str:
    try:
        text = json.dumps(payload, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
        text.encode()
    except UnicodeEncodeError:
        raise InvalidArgument(field, "holds a lone surrogate, which UTF-8 cannot carry") from None
    except ValueError:
        raise InvalidArgument(field, "holds a number that is too large for JSON") from None
    return text


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _children(node: object) -> Sequence[object]:
    if isinstance(node, dict):
        return list(node.values())
    return node if isinstance(node, list) else ()
