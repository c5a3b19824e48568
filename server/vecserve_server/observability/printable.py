"""Text of others on its way to a log or a terminal.

Owns what is escaped: line breaks and control characters, which forge lines and steer terminals, and
marks without a shape or of direction, which make a line look like another one. Pure.
"""

from __future__ import annotations

import json


def printable(text: str) -> str:
    """Replace every character that does not print, but the blank, by its JSON escape."""
    if text.isprintable():
        return text
    return "".join(
        character if character.isprintable() else json.dumps(character)[1:-1] for character in text
    )


def one_word(text: str) -> str:
    """Return the text as it is, or as a JSON string where it could be taken for more than one."""
    if text and text.isprintable() and not {" ", '"', "\\"} & set(text):
        return text
    return printable(json.dumps(text, ensure_ascii=False))
