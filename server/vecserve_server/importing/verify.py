"""Check a model version against its card.

Owns the comparison. Must not know what the files mean.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from vecserve_server.model_files.card import FileDigest, digests_of, read_card
from vecserve_server.model_files.layout import CARD_FILE


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One file that differs from the card."""

    file: str
    problem: str


def verify_model(repository: Path, name: str, *, version: str = "1") -> list[Finding]:
    """Hash every file of a version; return what differs from the card, empty when all is well.

    Raises `ModelError` where the card itself is missing or malformed.
    """
    folder = repository / name / version
    expected, found = read_card(folder).files, digests_of(folder)
    findings = [
        Finding(file=file, problem=problem)
        for file, digest in expected.items()
        if (problem := _problem(digest, found.get(file)))
    ]
    unknown = sorted(found.keys() - expected.keys() - {CARD_FILE})
    return findings + [Finding(file=file, problem="is not on the card") for file in unknown]


def _problem(expected: FileDigest, found: FileDigest | None) -> str | None:
    if found is None:
        return "is missing"
    if found.sha256 != expected.sha256:
        return f"sha256 is {found.sha256}, expected {expected.sha256}"
    return None
