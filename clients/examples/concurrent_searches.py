"""Ask many questions side by side with the asynchronous client.

Needs a collection; `vecserve index` or `search_documents.py` makes one.

    python clients/examples/concurrent_searches.py COLLECTION [HOST:PORT]
"""

from __future__ import annotations

import asyncio
import sys
import time

from vecserve_client import AsyncClient

QUESTIONS = ["rain", "light in the evening", "hot drinks", "shoes"] * 25


async def main(collection: str, target: str) -> None:
    """Run a hundred searches at once and print how long they took."""
    async with AsyncClient(target=target) as client:
        started = time.monotonic()
        answers = await asyncio.gather(
            *(client.search(collection, question, k=1) for question in QUESTIONS)
        )
        seconds = time.monotonic() - started
    for question, answer in zip(QUESTIONS[:4], answers, strict=False):
        print(f"{question}: {', '.join(hit.id for hit in answer.hits)}")
    print(f"{len(answers)} searches in {seconds:.2f} s")


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    asyncio.run(main(sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else "127.0.0.1:8001"))
