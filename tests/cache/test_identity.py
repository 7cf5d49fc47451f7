from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cache_management.cache.errors import InvalidKey
from cache_management.cache.identity import MAX_KEY_BYTES, KeySpace, check_namespace, digest, storage_prefix

NAMESPACES = st.from_regex(r"[A-Za-z0-9_.\-]{1,64}", fullmatch=True)
KINDS = st.sampled_from(["llm", "vec"])
KEYS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=300)


@given(kind=KINDS, namespace=NAMESPACES, key=KEYS)
def test_key_comes_back_from_its_storage_key_unless_it_is_hashed(kind: str, namespace: str, key: str) -> None:
    keys = KeySpace(kind, namespace)  # type: ignore[arg-type]

    stored = keys.to_storage(key)

    assert stored.startswith(keys.prefix)
    assert keys.is_hashed(stored) == (len(key.encode()) > 200)
    assert keys.from_storage(stored) == (None if keys.is_hashed(stored) else key)
    assert len(stored.encode()) <= 200 + len(keys.prefix) + 1


@given(key=KEYS, other=KEYS, namespace=NAMESPACES)
def test_different_keys_have_different_storage_keys(key: str, other: str, namespace: str) -> None:
    keys = KeySpace("llm", namespace)

    assert (keys.to_storage(key) == keys.to_storage(other)) == (key == other)


@given(one=st.tuples(KINDS, NAMESPACES), other=st.tuples(KINDS, NAMESPACES), key=KEYS)
def test_no_key_begins_with_the_prefix_of_another_namespace(
    one: tuple[str, str], other: tuple[str, str], key: str
) -> None:
    stored = KeySpace(*one).to_storage(key)  # type: ignore[arg-type]

    assert stored.startswith(storage_prefix(*other)) == (one == other)  # type: ignore[arg-type]


@pytest.mark.parametrize("size", [1, 199, 200, 201, 65_535, MAX_KEY_BYTES])
def test_keys_up_to_64_kib_can_be_used(size: int) -> None:
    keys = KeySpace("llm", "n")

    assert keys.is_hashed(keys.to_storage("x" * size)) == (size > 200)


def test_size_is_counted_in_bytes_not_characters() -> None:
    keys = KeySpace("llm", "n")

    assert not keys.is_hashed(keys.to_storage("é" * 100))
    assert keys.is_hashed(keys.to_storage("é" * 101))
    with pytest.raises(InvalidKey, match="65,538 bytes"):
        keys.to_storage("é" * (MAX_KEY_BYTES // 2 + 1))


@pytest.mark.parametrize(
    ("key", "why"),
    [
        ("", "must not be empty"),
        ("x" * (MAX_KEY_BYTES + 1), "65,537 bytes; at most 65,536"),
        ("\ud800", "not valid Unicode at character 0"),
        ("ok" * 200 + "\udfff", "not valid Unicode at character 400"),
        (None, "must be text, not NoneType"),
        (7, "must be text, not int"),
        (b"bytes", "must be text, not bytes"),
        (["list"], "must be text, not list"),
    ],
)
def test_unusable_key_is_refused_with_the_reason(key: object, why: str) -> None:
    with pytest.raises(InvalidKey, match=why):
        KeySpace("llm", "n").to_storage(key)  # type: ignore[arg-type]


@pytest.mark.parametrize("namespace", ["", "a:b", "a b", "ä", "a*", "a/b", "x" * 65, "a\n", "\ud800", "a\x00"])
def test_unusable_namespace_is_refused(namespace: str) -> None:
    with pytest.raises(InvalidKey, match="letters, digits, dots, dashes or underscores"):
        check_namespace(namespace)


def test_digest_does_not_show_the_text_and_takes_any() -> None:
    assert digest("secret") == digest("secret")
    assert digest("secret") != digest("secret ")
    assert len(digest("\ud800")) == 32
