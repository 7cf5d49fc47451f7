from __future__ import annotations

import socket

import pytest

from cache_management.cache.errors import ConfigurationError
from cache_management.serve.running import listening


def test_small_pieces_are_sent_at_once() -> None:
    with listening("127.0.0.1", 0) as bound:
        # What asyncio looks at before it sets TCP_NODELAY; without it each answer takes 40 ms.
        assert bound.proto == socket.IPPROTO_TCP


def test_a_port_that_is_taken_is_said() -> None:
    with listening("127.0.0.1", 0) as bound, pytest.raises(ConfigurationError, match=r"serve\.port"):
        listening("127.0.0.1", bound.getsockname()[1])


@pytest.mark.skipif(not socket.has_ipv6, reason="needs IPv6")
def test_it_listens_on_ipv6_too() -> None:
    with listening("::1", 0) as bound:
        assert bound.family == socket.AF_INET6
