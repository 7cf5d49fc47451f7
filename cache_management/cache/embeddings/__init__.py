"""Texts to vectors."""

from __future__ import annotations

from cache_management.cache.config import EmbeddingModel
from cache_management.cache.embeddings.base import Embedder


def open_embedder(model: EmbeddingModel | str) -> Embedder:
    """Return the embedder for a model; nothing is loaded yet.

    `hashing` names the one that needs no weights and knows no meaning.
    """
    if model == "hashing":
        from cache_management.cache.embeddings.hashing import HashingEmbedder

        return HashingEmbedder()
    from cache_management.cache.embeddings.sentence_transformers import SentenceTransformerEmbedder

    return SentenceTransformerEmbedder(model)
