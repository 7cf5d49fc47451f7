"""What may stand in an entry's metadata, from wherever it comes."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from cache_management.cache.config import CacheConfig
from cache_management.cache.errors import InvalidInput, ProviderRefused
from cache_management.cache.llm import LLMCache
from cache_management.cache.manager import CacheManager
from cache_management.cache.payloads import GATEWAY, LITELLM, PAYLOADS, check_metadata, is_text_alone
from cache_management.cache.provider import as_computed
from cache_management.cache.values import CachedResponse
from cache_management.cache.warm_items import WarmItem, check_items

BODY: dict[str, Any] = {"api": "chat", "body": {}}


@pytest.mark.parametrize("name", sorted(PAYLOADS))
def test_what_is_served_in_the_place_of_a_text_is_told_from_a_text(name: str) -> None:
    assert is_text_alone({"page": 5})
    assert not is_text_alone({"page": 5, name: None})


@pytest.mark.parametrize("name", sorted(PAYLOADS))
def test_metadata_from_elsewhere_that_would_be_served_is_refused_by_name(name: str) -> None:
    with pytest.raises(InvalidInput, match=rf"the metadata may not hold '{name}'.*take another name"):
        check_metadata({"page": 5, name: BODY}, "the metadata")


async def test_an_application_does_not_store_it_beside_a_text() -> None:
    manager = CacheManager(LLMCache(CacheConfig(url="memory://")))

    with pytest.raises(InvalidInput, match="metadata may not hold 'gateway'"):
        await manager.store("q", "4", metadata={GATEWAY: BODY})

    assert not await manager.lookup("q")


async def test_an_entry_that_was_read_is_stored_again_with_all_it_holds() -> None:
    """As an application does that moves entries, and an import of our own exports."""
    manager = CacheManager(LLMCache(CacheConfig(url="memory://")))
    moment = datetime(2026, 1, 1, tzinfo=UTC)
    entry = CachedResponse(prompt="q", response="4", model="m", timestamp=moment, metadata={GATEWAY: BODY})
    other = CacheManager(LLMCache(CacheConfig(url="memory://")))

    await manager.store("q", entry)
    await other.import_entries(await manager.export_entries())

    for each in (manager, other):
        found = (await each.lookup("q")).response
        assert found is not None
        assert found.metadata == {GATEWAY: BODY}


def test_items_to_warm_do_not_bring_it() -> None:
    rows: list[Any] = [
        {"prompt": "q", "response": "4", "metadata": {GATEWAY: BODY}},
        {"prompt": "q", "metadata": {LITELLM: "{}"}},
        WarmItem(prompt="q", response="4", metadata={LITELLM: "{}"}),
    ]

    for row in rows:
        with pytest.raises(InvalidInput, match="item 0: metadata may not hold"):
            list(check_items([row], may_ask=True))


def test_a_provider_does_not_answer_with_it() -> None:
    with pytest.raises(ProviderRefused, match="metadata may not hold 'gateway'"):
        as_computed({"response": "4", "metadata": {GATEWAY: BODY}})
