"""No password in what people get to see."""

from __future__ import annotations

import pytest

from cache_management.cache.redact import hide_password, hide_passwords


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
        ("sqlite:////tmp/a:b@c.db", "sqlite:////tmp/a:b@c.db"),
        ("redis://:@node/0", "redis://:@node/0"),
        ("postgresql://db/cache?password=", "postgresql://db/cache?password="),
        ("redis://:it's <a> \"secret@node/0", "redis://:********@node/0"),
    ],
)
def test_passwords_are_hidden_and_the_rest_is_shown(url: str, shown: str) -> None:
    assert hide_password(url) == shown


@pytest.mark.parametrize(
    "password", ["it's-secret", 'a"secret', "a<secret>", "a secret", "se@cret", "a://secret", "'secret'"]
)
@pytest.mark.parametrize("text", ["redis://:{}@host/0", "redis://:{}@host/0 is down: refused", "'redis://me:{}@h', b"])
def test_what_a_password_holds_does_not_show_the_rest_of_it(text: str, password: str) -> None:
    assert hide_passwords(text.format(password)) == text.format("********")


@pytest.mark.parametrize(
    "text",
    [
        "redis://127.0.0.1:6379/0 does not answer",
        "see https://docs.example.com/a: or write to me@example.com",
        "redis://node and mail: me@example.com",
        "redis://127.0.0.1:6379\nme@example.com",
        "no URL: a:b@c",
    ],
)
def test_a_text_without_a_password_stays_what_it_is(text: str) -> None:
    assert hide_passwords(text) == text


def test_every_url_of_a_text_is_looked_at() -> None:
    text = "redis://a:1/0, postgresql://me:hunter2@db/x?a=b and http://x/?token=hunter2 (me@x)"

    assert (
        hide_passwords(text) == "redis://a:1/0, postgresql://me:********@db/x?a=b and http://x/?token=******** (me@x)"
    )
    assert hide_passwords("a" * 200_000) == "a" * 200_000
