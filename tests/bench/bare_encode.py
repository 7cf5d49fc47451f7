"""The bare model in a process of its own: texts in, seconds out, one JSON line each.

`SentenceTransformer.encode` in one call is what a warm job is measured against. It runs in its
own process, so that its threads are those of a program that does nothing else.
"""

from __future__ import annotations

import json
import sys
from time import perf_counter, process_time

from cache_management.cache.config import EmbeddingModel
from cache_management.cache.embeddings.weights import locate


def main() -> None:
    """Answer lines until the input ends; the first line out says that the model is loaded."""
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(locate(EmbeddingModel.MINILM)))
    model.eval()
    model.encode(["warm up"] * 64, batch_size=64, show_progress_bar=False)
    _say({"ready": True})
    for line in sys.stdin:
        texts = json.loads(line)
        cpu, started = process_time(), perf_counter()
        rows = model.encode(
            texts, batch_size=64, normalize_embeddings=True, convert_to_numpy=True, show_progress_bar=False
        )
        _say({"seconds": perf_counter() - started, "cpu_seconds": process_time() - cpu, "rows": len(rows)})


def _say(message: dict[str, object]) -> None:
    print(json.dumps(message), flush=True)


if __name__ == "__main__":
    main()
