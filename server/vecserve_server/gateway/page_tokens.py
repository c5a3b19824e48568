"""Opaque page tokens: where the next page begins.

Owns their form. A token of another listing, or one that was tampered with, is refused.
"""

from __future__ import annotations

import base64
import binascii

from vecserve_server.errors import InvalidArgument


def write_page_token(listing: str, position: str) -> str:
    """Make the token with which `listing` goes on after `position`."""
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
