from __future__ import annotations

import base64
import copy
import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

if not os.environ.get("CI"):
    pytest.importorskip("cryptography", reason="needs the extra encryption")

from datetime import UTC, datetime

from cache_management.cache.codec import encode_entry
from cache_management.cache.crypto import ENVIRONMENT_VARIABLE, Keyring, is_sealed, key_id_of
from cache_management.cache.errors import ConfigurationError, CorruptRecord
from cache_management.cache.values import CachedResponse

OLD, NEW = bytes(range(32)), bytes(range(100, 132))
KEYS = Keyring({"2026-05": NEW, "2025-11": OLD})
ENCODED = base64.b64encode(OLD).decode()
STORAGE_KEY = "cm1:llm:default:kWhat is Python?"
STORAGE_KEYS = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)


@given(value=st.binary(max_size=500), storage_key=STORAGE_KEYS)
@example(value=b"", storage_key="")
def test_what_is_sealed_comes_back(value: bytes, storage_key: str) -> None:
    sealed = KEYS.seal(value, storage_key)

    assert KEYS.open_sealed(sealed, storage_key) == value
    assert is_sealed(sealed)
    assert key_id_of(sealed) == "2026-05"


def test_the_value_cannot_be_seen_and_every_sealing_differs() -> None:
    value = b"the capital of France is Paris" * 3

    sealed = [KEYS.seal(value, STORAGE_KEY) for _ in range(200)]

    assert len(set(sealed)) == len({one[10:22] for one in sealed}) == 200
    assert all(b"Paris" not in one for one in sealed)
    assert {len(one) - len(value) for one in sealed} == {3 + len("2026-05") + 12 + 16}


def test_every_flipped_bit_is_refused() -> None:
    sealed = KEYS.seal(b"value", STORAGE_KEY)

    for bit in range(len(sealed) * 8):
        changed = bytearray(sealed)
        changed[bit // 8] ^= 1 << bit % 8
        with pytest.raises(CorruptRecord):
            KEYS.open_sealed(bytes(changed), STORAGE_KEY)


@given(value=st.binary(max_size=60), data=st.data())
def test_cut_or_lengthened_is_refused(value: bytes, data: st.DataObject) -> None:
    sealed = KEYS.seal(value, STORAGE_KEY)
    end = data.draw(st.integers(0, len(sealed) - 1))

    for changed in (sealed[:end], sealed[end + 1 :], sealed + b"\0"):
        with pytest.raises(CorruptRecord):
            KEYS.open_sealed(changed, STORAGE_KEY)


@given(one=STORAGE_KEYS, other=STORAGE_KEYS)
def test_a_value_moved_to_another_key_is_refused(one: str, other: str) -> None:
    sealed = KEYS.seal(b"value", one)

    if one != other:
        with pytest.raises(CorruptRecord, match="changed or moved"):
            KEYS.open_sealed(sealed, other)


@given(noise=st.binary(max_size=80))
@example(noise=b"\xc1")
@example(noise=b"\xc1\x01\xff")
@example(noise=b"\xc1\x01\x00" + bytes(40))
@example(noise=b"\xc1\x01\x02\xc3\xa9" + bytes(40))
@example(noise=b"\xc1\x02\x01a" + bytes(40))
def test_noise_is_refused(noise: bytes) -> None:
    for value in (noise, b"\xc1" + noise, b"\xc1\x01\x072026-05" + noise):
        with pytest.raises(CorruptRecord):
            KEYS.open_sealed(value, STORAGE_KEY)


@pytest.mark.parametrize("text", ["", "short", "long " * 40_000])
def test_a_plain_entry_is_never_taken_for_a_sealed_one(text: str) -> None:
    response = CachedResponse(prompt="p", response=text, model="m", timestamp=datetime(2026, 1, 2, tzinfo=UTC))
    plain = encode_entry("p", response, keep_key=False, limit_bytes=2**20)

    assert not is_sealed(plain)
    assert not is_sealed(b"")
    with pytest.raises(CorruptRecord, match="not encrypted"):
        KEYS.open_sealed(plain, STORAGE_KEY)


# keys


def test_rotation_the_first_key_seals_and_all_open() -> None:
    before = Keyring({"old": OLD})
    during = Keyring({"new": NEW, "old": OLD})
    after = Keyring({"new": NEW})
    sealed = before.seal(b"value", STORAGE_KEY)

    assert during.open_sealed(sealed, STORAGE_KEY) == b"value"
    assert during.needs_resealing(sealed)
    resealed = during.seal(during.open_sealed(sealed, STORAGE_KEY), STORAGE_KEY)
    assert not during.needs_resealing(resealed)
    assert after.open_sealed(resealed, STORAGE_KEY) == b"value"
    with pytest.raises(CorruptRecord, match="'old', which is not in the keyring"):
        after.open_sealed(sealed, STORAGE_KEY)


def test_another_key_under_the_same_id_is_refused() -> None:
    with pytest.raises(CorruptRecord, match="its key 'a' differs"):
        Keyring({"a": OLD}).open_sealed(Keyring({"a": NEW}).seal(b"v", "k"), "k")


def test_the_same_key_under_another_id_is_refused() -> None:
    ring = Keyring({"aa": OLD, "ab": OLD})
    sealed = ring.seal(b"v", "k")

    with pytest.raises(CorruptRecord):
        ring.open_sealed(sealed.replace(b"aa", b"ab", 1), "k")


def test_a_key_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_text(f"# rotated in May\n\n2026-05: {base64.b64encode(NEW).decode()}\r\n 2025-11 :{ENCODED} \n")
    path.chmod(0o600)

    ring = Keyring.from_file(path)

    assert ring.key_ids == ("2026-05", "2025-11")
    assert ring.open_sealed(KEYS.seal(b"v", "k"), "k") == b"v"


def test_keys_from_the_environment() -> None:
    text = f"a: {ENCODED}, b: {base64.b64encode(NEW).decode()}"

    ring = Keyring.from_environment({ENVIRONMENT_VARIABLE: text})

    assert ring is not None
    assert ring.key_ids == ("a", "b")
    assert Keyring.from_environment({}) is None
    with pytest.raises(ConfigurationError, match="environment variable CACHE_ENCRYPTION_KEYS holds no key"):
        Keyring.from_environment({ENVIRONMENT_VARIABLE: ""})


@pytest.mark.parametrize("mode", [0o604, 0o602, 0o644, 0o666])
def test_a_key_file_open_to_everybody_is_refused(mode: int, tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_text(f"a: {ENCODED}")
    path.chmod(mode)

    with pytest.raises(ConfigurationError, match=r"is open to every user; run `chmod 600"):
        Keyring.from_file(path)


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("", r"^file holds no key; write one"),
        ("# nothing\n", r"^file holds no key"),
        (ENCODED, r"^file, line 1: is no key with an id"),
        (f"a: {ENCODED}\na: {ENCODED}", r"^file, line 2: the key id 'a' is there twice$"),
        (f"a: {ENCODED}\nb/c: {ENCODED}", r"^file, line 2: is no key with an id"),
        (f"a: {ENCODED[:-4]}", r"^file, line 1: key 'a' is not base64 of 32 bytes"),
        (f"a: {ENCODED}AAAA", r"^file, line 1: key 'a' is not base64 of 32 bytes"),
        (f"a: !{ENCODED[1:]}", r"^file, line 1: key 'a' is not base64 of 32 bytes"),
        ("a: \u00e9", r"^file, line 1: key 'a' is not base64 of 32 bytes"),
    ],
)
def test_wrong_key_text_is_named_by_line_and_never_shown(text: str, error: str) -> None:
    with pytest.raises(ConfigurationError, match=error) as caught:
        Keyring.from_text(text, where="file")

    assert ENCODED[:12] not in str(caught.value)


def test_wrong_key_files(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    with pytest.raises(ConfigurationError, match="cannot be read: No such file"):
        Keyring.from_file(path)
    path.touch(mode=0o600)
    path.write_bytes(b"\xff")
    with pytest.raises(ConfigurationError, match="is not UTF-8 text"):
        Keyring.from_file(path)
    path.write_bytes(b"#" * 70_000)
    with pytest.raises(ConfigurationError, match="over 64 KiB, so it is no key file"):
        Keyring.from_file(path)


@pytest.mark.parametrize("keys", [{}, {"": OLD}, {"a b": OLD}, {"a" * 65: OLD}, {"a": OLD[:31]}, {"a": OLD + b"x"}])
def test_wrong_keys(keys: dict[str, bytes]) -> None:
    with pytest.raises(ConfigurationError):
        Keyring(keys)


def test_keys_are_never_shown_nor_carried_away() -> None:
    ring = Keyring({"a": OLD})

    shown = repr(ring) + str(ring) + str({name: repr(value) for name, value in vars(ring).items()})

    assert repr(ring) == "<Keyring a>"
    assert repr(OLD)[2:20] not in shown
    assert OLD.hex() not in shown
    for carry in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match="cannot be pickled"):
            carry(ring)  # type: ignore[operator]


def test_the_import_error_names_the_extra() -> None:
    code = "import sys; sys.modules['cryptography'] = None; import cache_management.cache.crypto"

    said = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True, timeout=60)

    assert "pip install 'cache-management[encryption]'" in said.stderr


@pytest.mark.parametrize("size", [0, 1, 70_000])
def test_sizes(size: int) -> None:
    value: Any = bytes(size)

    assert KEYS.open_sealed(KEYS.seal(value, "k"), "k") == value
