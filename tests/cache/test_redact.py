"""No password in what people get to see."""

from __future__ import annotations

import pytest

from cache_management.cache.redact import hide_password


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://:hunter2@node:6379/0", "redis://:********@node:6379/0"),
        ("postgresql://me:hunter2@db/cache", "postgresql://me:********@db/cache"),
        ("postgresql://me:hunter2/?@@db/cache", "postgresql://me:********@db/cache"),
        ("postgresql://db/cache?user=me&password=hunter2", "postgresql://db/cache?user=me&password=********"),
        ("postgresql://db/cache?PASSWORD=hunter2&x=1", "postgresql://db/cache?PASSWORD=********&x=1"),
        ("postgresql://db/cache?sslpassword=hunter2#x", "postgresql://db/cache?sslpassword=********#x"),
        ("postgresql://db/cache?user=a@b:c&password=hunter2", "postgresql://db/cache?user=a@b:c&password=********"),
        ("postgresql://me@db/cache", "postgresql://me@db/cache"),
        ("sqlite:////tmp/metadata.db", "sqlite:////tmp/metadata.db"),
        ("/tmp/a:b@c", "/tmp/a:b@c"),
    ],
)
def test_passwords_are_hidden_and_the_rest_is_shown(url: str, shown: str) -> None:
    assert hide_password(url) == shown
