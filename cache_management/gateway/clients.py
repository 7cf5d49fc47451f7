"""A cache for a client that is there already, in one line.

client = cached_openai(OpenAI(), manager)
client = cached_anthropic(AsyncAnthropic(), manager)
"""

from __future__ import annotations

import importlib
from typing import Any, TypeVar

from cache_management import sync
from cache_management.cache.errors import InvalidInput
from cache_management.cache.manager import CacheManager
from cache_management.gateway.inner_transports import AsyncClientTransport, ClientTransport
from cache_management.gateway.transport import CachingTransport

Client = TypeVar("Client")


def cached_openai(client: Client, manager: CacheManager | sync.CacheManager, *, namespace: str | None = None) -> Client:
    """Return a client of OpenAI, or of any kind derived from it, that answers from a cache what it can.

    The given one is left as it is, and does the asking: with its address, key, proxies and time limits. It is closed
    with what is returned.

    Args:
        client: `OpenAI`, `AsyncOpenAI`, or one of their kind such as Azure's.
        namespace: Where answers are kept; by default the manager's.

    Raises:
        InvalidInput: It is no such client.
    """
    return _cached(client, manager, namespace)


def cached_anthropic(
    client: Client, manager: CacheManager | sync.CacheManager, *, namespace: str | None = None
) -> Client:
    """Return a client of Anthropic that answers from a cache what it can, see `cached_openai`.

    Args:
        client: `Anthropic` or `AsyncAnthropic`.
        namespace: Where answers are kept; by default the manager's.

    Raises:
        InvalidInput: It is no such client.
    """
    return _cached(client, manager, namespace)


def _cached(client: Client, manager: CacheManager | sync.CacheManager, namespace: str | None) -> Client:
    asking: Any = getattr(client, "_client", None)
    copy: Any = getattr(client, "with_options", None)
    if asking is None or copy is None:
        raise InvalidInput(f"a client of OpenAI or Anthropic is expected, not {type(client).__name__}")
    library = importlib.import_module(_library_of(type(asking)))
    is_async = isinstance(asking, library.AsyncClient)
    through: Any = (AsyncClientTransport if is_async else ClientTransport)(asking)
    http: Any = (library.AsyncClient if is_async else library.Client)(
        transport=CachingTransport(manager, through, namespace=namespace),
        timeout=asking.timeout,
        follow_redirects=False,  # the client that asks follows them
    )
    copied: Client = copy(http_client=http)
    return copied


def _library_of(kind: type) -> str:
    """Return the library whose client this is, or is derived from."""
    names = (base.__module__.partition(".")[0] for base in kind.__mro__)
    found = next((name for name in names if name in {"httpx", "httpx2"}), None)
    if found is None:
        raise InvalidInput(f"the client sends by {kind.__module__}, which is no client of httpx")
    return found
