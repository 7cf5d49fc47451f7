"""Names in an entry's metadata under which something is kept that is served in the place of its text.

Without any framework: whoever brings entries from elsewhere must not let these names in.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from cache_management.cache.errors import InvalidInput

GATEWAY: Final = "gateway"
"""A whole body, and the API that it is of: `{"api": ..., "body": {...}}`."""

LANGCHAIN: Final = "langchain"
"""Generations, in LangChain's own JSON."""

LITELLM: Final = "litellm"
"""A whole completion, in OpenAI's JSON."""

DSPY_COMPLETION: Final = "dspy_completion"
"""A whole completion of LiteLLM, as DSPy was given it."""

DSPY_RECORD: Final = "dspy_record"
"""A record of DSPy's own."""

PAYLOADS: Final = frozenset({GATEWAY, LANGCHAIN, LITELLM, DSPY_COMPLETION, DSPY_RECORD})


def is_text_alone(metadata: Mapping[str, object]) -> bool:
    """Tell whether the text of an entry is all of its answer: of a payload it leaves out tool calls and choices."""
    return PAYLOADS.isdisjoint(metadata)


def check_metadata(metadata: Mapping[str, object], what: str) -> None:
    """Return when metadata that comes from elsewhere may stand beside a text.

    Raises:
        InvalidInput: A name in it is one of these; names `what` and it.
    """
    taken = sorted(PAYLOADS.intersection(metadata))
    if taken:
        raise InvalidInput(
            f"{what} may not hold {taken[0]!r}: what stands there is served in the place of the response; take another"
            " name"
        )
