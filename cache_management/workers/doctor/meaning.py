"""What is found by meaning, and how fast."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from cache_management.cache.findings import Finding


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
