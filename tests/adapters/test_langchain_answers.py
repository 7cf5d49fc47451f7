"""What answers of LangChain say of themselves."""

from __future__ import annotations

from typing import Any

import pytest

from cache_management.adapters.langchain_answers import finish_reason, is_streaming, lacks_its_word


@pytest.mark.parametrize(
    ("places", "word"),
    [
        ([{}, {"finish_reason": "stop"}], "stop"),
        ([{"finish_reason": None}, {"done_reason": "length"}], "length"),
        ([{"finish_reason": "FinishReason.MAX_TOKENS"}], "MAX_TOKENS"),
        ([{"stopReason": "end_turn"}], "end_turn"),
        ([{"object": "response", "status": "incomplete"}], "incomplete"),
        ([{"status": "completed"}], None),
        ([{"finish_reason": 5}, {"stop_reason": ""}], None),
        ([], None),
    ],
)
def test_the_word_of_its_end_is_found_where_providers_put_it(places: list[dict[str, Any]], word: str | None) -> None:
    assert finish_reason(places) == word


def test_a_place_for_the_word_that_is_empty_is_told_from_none() -> None:
    assert lacks_its_word([{}, {"finish_reason": None}])
    assert not lacks_its_word([{"logprobs": None}])


@pytest.mark.parametrize(
    ("llm_string", "is_it"),
    [
        ('{"lc": 1, "kwargs": {"streaming": true}}---[]', True),
        ("[('_type', 'x'), ('streaming', True)]", True),
        ("{'stream': True}", True),
        ("[('stream', False), ('upstream', True)]", False),
        ('{"kwargs": {"streaming": false, "stream_usage": true}}', False),
        ("[('streaming', Trueish)]", False),
    ],
)
def test_a_description_of_a_model_says_whether_it_streams(llm_string: str, is_it: bool) -> None:
    assert is_streaming(llm_string) is is_it
