"""What an answer of LangChain says of itself. Pure, and without LangChain: importing old caches needs it too."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

_FINISH_NAMES = ("finish_reason", "stop_reason", "done_reason", "stopReason")
_STREAMS = re.compile(r"""["']stream(?:ing)?["'][:,] ?[Tt]rue\b""")


def finish_reason(places: Iterable[Mapping[str, Any]]) -> str | None:
    """Return the provider's word for why the model came to its end; None when it says none."""
    for place in places:
        for name in _FINISH_NAMES:
            if isinstance(place.get(name), str) and place[name]:
                return str(place[name]).rpartition(".")[2]  # an enum of Google's says FinishReason.STOP
        match place:
            case {"object": "response", "status": str(status)}:  # OpenAI's responses
                return status
    return None


def lacks_its_word(places: Iterable[Mapping[str, Any]]) -> bool:
    """Tell whether there is a place for the word of its end, and nothing in it."""
    return any(name in place for place in places for name in _FINISH_NAMES)


def is_streaming(llm_string: str) -> bool:
    """Tell whether the description of a model says that it puts its answers together of a stream."""
    return _STREAMS.search(llm_string) is not None
