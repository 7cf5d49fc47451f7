"""What is found by meaning, how fast, and how rightly."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import msgspec

from cache_management.cache.findings import Finding
from cache_management.settings import Settings
from cache_management.workers.doctor.servers import in_bytes

if TYPE_CHECKING:
    from cache_management.cache.semantic.evidence import FalseHits

_SLOW_SHARE = 0.25
_FEW_ENTRIES, _MANY_SHARE = 20, 0.8
_INDEX_SHARE = 0.25


def check_embedder(
    own: str, spaces: Mapping[str, int], *, previous_model: str | None, looked_at_all: bool = True
) -> Finding:
    """Check of which models there are vectors.

    Args:
        own: The space of the configured model.
        spaces: Vectors by space, of as many as were looked at.
    """
    others = {space: count for space, count in spaces.items() if space != own}
    some = "" if looked_at_all else " of those looked at"
    if not others:
        return Finding("vectors", "ok", f"all vectors{some} are of {own}: {spaces.get(own, 0):,}")
    told = ", ".join(f"{count:,} of {space}" for space, count in sorted(others.items()))
    if previous_model is not None:
        return Finding(
            "vectors",
            "warn",
            f"a change of the model is under way: {told}{some}, {spaces.get(own, 0):,} of {own}",
            "until it is done both models are asked",
            "finish it: `cache-cli embed --drop-old`, then take semantic.previous_model out",
        )
    return Finding(
        "vectors",
        "warn" if spaces.get(own) else "fail",
        f"there are vectors of other models than {own}: {told}{some}, {spaces.get(own, 0):,} of it",
        "entries whose vector is of another model are not found by meaning",
        "`cache-cli embed --plan` counts them, `cache-cli embed` embeds them; or set embedding_model back",
    )


def check_jobs_models(models: Iterable[str], own: str) -> list[Finding]:
    """Check live embed jobs against the configured model."""
    others = sorted(set(models) - {own})
    return [
        Finding(
            "embed jobs",
            "warn",
            f"a job embeds with {', '.join(others)}, this command is set to {own}",
            "its vectors will not be found with this model",
            "cancel it (`cache-cli jobs list --kind embed`), or set embedding_model back",
        )
    ][: len(others[:1])]


class MeaningFacts(msgspec.Struct, frozen=True):
    """What was seen of the model and of what is found by it; `engine` is None where no model runs.

    `embed_seconds` is what one short text took, `entries` and `vectors` what there is of the namespace, as far as it
    was counted (`counted_all`).
    """

    engine: str | None = None
    has_onnx: bool = True
    embed_seconds: float = 0.0
    dims: int = 0
    entries: int = 0
    vectors: int = 0
    counted_all: bool = True
    false_hits: FalseHits | None = None


def check_meaning(facts: MeaningFacts, settings: Settings, *, machine_bytes: int) -> list[Finding]:
    """Check what makes a search by meaning slow, or find too little or wrong things."""
    found = []
    if facts.engine == "torch" and settings.semantic.device in (None, "cpu"):
        way_out = "pip install 'cache-management[onnx]', and leave semantic.engine at auto"
        if facts.has_onnx:
            way_out = (
                "set semantic.engine to auto; where it stays so, its log says at start why the model has no export"
            )
        found.append(
            Finding(
                "engine",
                "warn",
                f"{settings.embedding_model} runs by torch on the processor",
                "a question takes two to three times as long to embed as by ONNX Runtime, and each process more memory",
                way_out,
            )
        )
    if facts.embed_seconds > _SLOW_SHARE * settings.semantic.embed_timeout_seconds:
        found.append(
            Finding(
                "embedding",
                "warn",
                f"a short text takes {facts.embed_seconds * 1000:,.0f} ms to embed, and"
                f" {settings.semantic.embed_timeout_seconds * 1000:,.0f} ms are waited for",
                "questions that are not embedded in time are asked without meaning, and miss",
                "take a smaller embedding_model (all-MiniLM-L6-v2), keep cache_embeddings on, give it a processor of"
                " its own; or raise semantic.embed_timeout_seconds",
            )
        )
    if not settings.cache_embeddings:
        found.append(
            Finding(
                "kept vectors",
                "warn",
                "cache_embeddings is off",
                "every question is embedded, also one that was asked a moment ago",
                "set cache_embeddings to true",
            )
        )
    found += _check_counts(facts, settings)
    index_bytes = facts.vectors * facts.dims * 4
    if index_bytes > _INDEX_SHARE * machine_bytes and settings.semantic.index_url is None:
        found.append(
            Finding(
                "index",
                "warn",
                f"{facts.vectors:,} vectors take {in_bytes(index_bytes)} in each process that searches,"
                f" of {in_bytes(machine_bytes)}",
                "processes start slowly, and several of them need more memory than there is",
                "set semantic.index_url (PostgreSQL with pgvector), lower max_size or ttl_seconds, or split namespaces",
            )
        )
    if facts.false_hits is not None:
        found += _check_false_hits(facts.false_hits, settings)
    return found


def _check_counts(facts: MeaningFacts, settings: Settings) -> Iterable[Finding]:
    some = "" if facts.counted_all else ", of those counted"
    told = f"{facts.vectors:,} of {facts.entries:,} entries have a vector{some}"
    if not facts.vectors or facts.entries < _FEW_ENTRIES or facts.vectors >= _MANY_SHARE * facts.entries:
        yield Finding("entries with vectors", "ok", told)
        return
    yield Finding(
        "entries with vectors",
        "warn",
        told,
        "the others are found by their key only: misses by meaning",
        "`cache-cli embed --plan` counts why, `cache-cli embed` embeds them; a worker of the queue embed keeps up",
    )


def _check_false_hits(known: FalseHits, settings: Settings) -> Iterable[Finding]:
    served = known.served
    told = (
        f"{served.rate:.1%} of the answers found by meaning are wrong"
        f" ({served.low:.1%} to {served.high:.1%}, {served.audited:,} computed again), {known.budget:.1%} may be"
    )
    if not served.audited:
        yield Finding("false hits", "ok", "no answer found by meaning was computed again yet")
    elif served.rate <= known.budget:
        yield Finding("false hits", "ok", told)
    else:
        yield Finding(
            "false hits",
            "fail" if served.low > known.budget else "warn",
            told,
            "people get answers to another question",
            f"raise similarity_threshold ({settings.similarity_threshold:g}), take gates out of semantic.gates_off,"
            " block pairs with `cache-cli feedback PROMPT --wrong`; semantic.mode shadow serves none meanwhile",
        )
