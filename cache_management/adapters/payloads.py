"""Names in an entry's metadata under which adapters keep what they serve in the place of its text.

Without any framework: whoever brings entries from elsewhere must not let these names in.
"""

from __future__ import annotations

from typing import Final

LANGCHAIN: Final = "langchain"
"""Generations, in LangChain's own JSON."""

LITELLM: Final = "litellm"
"""A whole completion, in OpenAI's JSON."""

DSPY_COMPLETION: Final = "dspy_completion"
"""A whole completion of LiteLLM, as DSPy was given it."""

DSPY_RECORD: Final = "dspy_record"
"""A record of DSPy's own."""

PAYLOADS: Final = frozenset({LANGCHAIN, LITELLM, DSPY_COMPLETION, DSPY_RECORD})
