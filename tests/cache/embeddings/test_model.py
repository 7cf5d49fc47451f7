"""Loading a model, whatever becomes of it."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from cache_management.cache.embeddings import model as module
from cache_management.cache.embeddings.model import LoadedModel, ModelEmbedder
from cache_management.cache.errors import EmbedderUnavailable


def loaded() -> LoadedModel:
    return LoadedModel(
        engine="onnx",
        encode=lambda texts: np.ones((len(texts), 1), dtype=np.float32),
        measure=None,
        limit=8,
        unknown_id=None,
        dims=1,
        space="s",
    )


async def test_those_who_wait_for_a_model_that_is_not_there_share_one_look_for_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = [0.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    tries: list[Any] = [EmbedderUnavailable("no such model"), ImportError("no such library"), None]
    looks = 0

    def load() -> LoadedModel:
        nonlocal looks
        said = tries[looks]
        looks += 1
        if said is not None:
            raise said
        return loaded()

    embedder = ModelEmbedder("m", load)

    found = await asyncio.gather(*(embedder.load() for _ in range(10)), return_exceptions=True)
    assert (looks, {str(each) for each in found}) == (1, {"no such model"})
    now[0] += 60
    with pytest.raises(ImportError, match="no such library"):
        await embedder.load()
    with pytest.raises(EmbedderUnavailable, match="no such library"):
        await embedder.load()
    now[0] += 60
    await embedder.load()

    assert (looks, embedder.dims) == (3, 1)


async def test_a_long_text_without_spaces_is_not_read_to_its_end() -> None:
    read: list[int] = []

    def one_unknown_token(text: str) -> Any:
        read.append(len(text))
        return SimpleNamespace(ids=[1])

    found = loaded()._replace(measure=SimpleNamespace(encode=one_unknown_token))
    embedder = ModelEmbedder("m", lambda: found)

    assert not embedder.fits("x" * 10_000_000)
    assert sum(read) <= 10_000
