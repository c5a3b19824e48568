"""Pages of listings, and opaque tokens that say where the next one begins.

Owns their form. A token of another listing, or one that was tampered with, is refused.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable

from vecserve_server.domain.validation import check_page_size
from vecserve_server.errors import InvalidArgument

MAX_DIGITS = 18
"""Of a seq; more could exceed the 64 bits of SQLite's integers."""


def cut_page(
    listing: str, names: Iterable[str], *, page_size: int, page_token: str
) -> tuple[list[str], str]:
    """Cut the page that a request asks for out of all names; return it and the next token."""
    size = check_page_size(page_size)
    after = read_page_token(listing, page_token)
    rest = sorted(name for name in names if name > after)
    last = rest[size - 1] if len(rest) > size else ""
    return rest[:size], write_page_token(listing, last)


def read_seq(position: str) -> int:
    """Read the position of a scan: the seq after which it goes on, 0 for an empty position."""
    if position and not (position.isdecimal() and len(position) <= MAX_DIGITS):
        raise InvalidArgument("page_token", "is not one that this listing gave out")
    return int(position or 0)


def write_page_token(listing: str, position: str) -> str:
    """Make the token with which `listing` goes on after `position`; empty for an empty one."""
    if not position:
        return ""
    return base64.urlsafe_b64encode(f"{listing}\n{position}".encode()).decode()


def read_page_token(listing: str, token: str) -> str:
    """Return the position of a token, empty for an empty one."""
    if not token:
        return ""
    try:
        found, _, position = base64.urlsafe_b64decode(token.encode()).decode().partition("\n")
    except (binascii.Error, UnicodeError):
        found, position = "", ""
    if found != listing or not position:
        raise InvalidArgument("page_token", "is not one that this listing gave out")
    return position
