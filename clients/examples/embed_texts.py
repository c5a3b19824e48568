"""Embed texts and compare them with NumPy.

python clients/examples/embed_texts.py [HOST:PORT]
"""

from __future__ import annotations

import sys

from vecserve_client import Client

TEXTS = [
    "My parcel has not arrived.",
    "Where is my delivery?",
    "How do I reset my password?",
]


def main(target: str) -> None:
    """Print the cosine of every pair of texts."""
    with Client(target=target) as client:
        result = client.embed(TEXTS)
    cosines = result.vectors @ result.vectors.T
    for text, row in zip(TEXTS, cosines, strict=True):
        print("  ".join(f"{cosine:5.2f}" for cosine in row), "", text)
    print(f"{result.model.name}, {result.vectors.shape[1]} components, tokens {result.tokens}")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "127.0.0.1:8001")
