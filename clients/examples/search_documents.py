"""Write a few documents, wait until they are on disk, and ask a question.

python clients/examples/search_documents.py [HOST:PORT]
"""

from __future__ import annotations

import sys

from vecserve_client import Client, NotFound, Record

DOCUMENTS = {
    "kettle": "A kettle that boils a litre of water in two minutes.",
    "lamp": "A reading lamp with warm light and a heavy foot.",
    "tent": "A tent for two that stands up to wind and rain.",
    "boots": "Walking boots, waterproof, for long days in the hills.",
}


def main(target: str) -> None:
    """Run the example against one server."""
    with Client(target=target) as client:
        try:
            client.drop_collection("example")
        except NotFound:
            print("a first run: there is nothing to drop")
        client.create_collection("example")
        rows = [Record(id=key, text=text) for key, text in DOCUMENTS.items()]
        client.upsert("example", rows)
        found = client.search("example", "something for a rainy hike", k=2, with_text=True)
        for hit in found.hits:
            print(f"{hit.score:.3f}  {hit.text}")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "127.0.0.1:8001")
