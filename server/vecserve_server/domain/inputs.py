"""What can become a vector: a text, an image, a recording, or a vector that is ready.

Owns the kinds of input. Must not know who can embed which, nor how.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import ClassVar, TypeAlias

import numpy as np
from numpy.typing import NDArray


class Modality(StrEnum):
    """A kind of input; its value is the name of the field that holds it in requests."""

    TEXT = "text"
    IMAGE = "image"
    AUDIO = "audio"
    VECTOR = "vector"


@dataclass(frozen=True, slots=True)
class Text:
    """A text to embed."""

    text: str
    modality: ClassVar = Modality.TEXT


@dataclass(frozen=True, slots=True)
class Image:
    """An encoded image to embed: JPEG, PNG or WebP."""

    data: bytes
    modality: ClassVar = Modality.IMAGE


@dataclass(frozen=True, slots=True)
class Audio:
    """Encoded audio to embed: WAV, FLAC or OGG."""

    data: bytes
    modality: ClassVar = Modality.AUDIO


@dataclass(frozen=True, slots=True, eq=False)
class ReadyVector:
    """A vector [D] that needs no model; its values have not been checked."""

    values: NDArray[np.generic]
    modality: ClassVar = Modality.VECTOR


Input: TypeAlias = Text | Image | Audio | ReadyVector
"""What a caller gives to be embedded, stored or looked for."""
Embeddable: TypeAlias = Text | Image | Audio
"""An input that a model turns into a vector."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """Where an input lies that is not kept itself."""

    modality: Modality
    uri: str
    """As its owner names it."""
    sha256: str = ""
    """Hex, of its bytes when it was embedded; empty: unknown."""
