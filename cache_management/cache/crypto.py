"""Values encrypted at rest: AES-256-GCM, with the storage key bound to the bytes.

Sealed value:
    0xC1, layout u8 (1), length of the key id u8, key id (ASCII), nonce (12 bytes), ciphertext and tag
What stands before the nonce, and the storage key, are authenticated: a flipped bit is found,
and so is a value that was moved to another key. 0xC1 begins no plain value: codec.py begins
with 0x00 or 0x01, vectors are MessagePack, which never uses 0xC1, and neither does UTF-8.

Not covered: whoever can write to the store can put back an older value of the same key, and
sees sizes, storage keys (short prompts stand in them) and times. Nonces are random, so use a
key for at most 2**32 values (NIST SP 800-38D, 8.3) and then put a new one first.
"""

from __future__ import annotations

import base64
import binascii
import os
import re
import stat
from collections.abc import Mapping
from pathlib import Path

from cache_management.cache.errors import ConfigurationError, CorruptRecord

try:
    from cryptography.exceptions import InvalidTag  # type: ignore[import-not-found, unused-ignore]
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM  # type: ignore[import-not-found, unused-ignore]
except ImportError as exc:
    raise ImportError("Encryption at rest needs: pip install 'cache-management[encryption]'") from exc

ENVIRONMENT_VARIABLE = "CACHE_ENCRYPTION_KEYS"
KEY_BYTES = 32

_MAGIC = 0xC1
_LAYOUT = 1
_NONCE_BYTES = 12
_TAG_BYTES = 16
_MAX_FILE_BYTES = 64 * 1024
_KEY_ID = re.compile(r"[A-Za-z0-9._\-]{1,64}")
_FIX = "write one `key id: key` a line, the key from `openssl rand -base64 32`"


class Keyring:
    """The keys that values are encrypted with: the first one seals, every one opens.

    To rotate, put a new key in front of the old ones, and drop an old one when no value of
    it is left. The keys never appear in a repr, an error or a log.
    """

    def __init__(self, keys: Mapping[str, bytes]) -> None:
        """Take keys of 32 bytes by key id, the sealing one first.

        Raises:
            ConfigurationError: There is no key, an id cannot be used, or a key has another size.
        """
        if not keys:
            raise ConfigurationError(f"the keyring holds no key; {_FIX}")
        for key_id, key in keys.items():
            if not _KEY_ID.fullmatch(key_id):
                raise ConfigurationError("a key id must be 1 to 64 letters, digits, dots, dashes or underscores")
            if len(key) != KEY_BYTES:
                raise ConfigurationError(f"key {key_id!r} has {len(key)} bytes, not {KEY_BYTES}; {_FIX}")
        self.key_ids = tuple(keys)
        self._ciphers = {_head(key_id): AESGCM(key) for key_id, key in keys.items()}
        self._sealing_head = _head(self.key_ids[0])
        self._sealing_cipher = self._ciphers[self._sealing_head]

    def __repr__(self) -> str:
        return f"<Keyring {', '.join(self.key_ids)}>"

    def __reduce__(self) -> str:
        # Pickling and copying would carry the keys out of the process.
        raise TypeError("a Keyring cannot be pickled or copied")

    @classmethod
    def from_text(cls, text: str, *, where: str) -> Keyring:
        """Read keys, one `key id: base64` a line or between commas; `#` begins a comment line.

        Raises:
            ConfigurationError: A line cannot be read; names `where` and the line, never its text.
        """
        keys: dict[str, bytes] = {}
        for at, line in enumerate(re.split(r"[\n,]", text), start=1):
            if not line.strip() or line.lstrip().startswith("#"):
                continue
            key_id, colon, encoded = (part.strip() for part in line.partition(":"))
            if not colon or not _KEY_ID.fullmatch(key_id):
                raise ConfigurationError(f"{where}, line {at}: is no key with an id; {_FIX}")
            if key_id in keys:
                raise ConfigurationError(f"{where}, line {at}: the key id {key_id!r} is there twice")
            try:
                key = base64.b64decode(encoded, validate=True)
            except (binascii.Error, ValueError):
                key = b""
            if len(key) != KEY_BYTES:
                raise ConfigurationError(f"{where}, line {at}: key {key_id!r} is not base64 of 32 bytes; {_FIX}")
            keys[key_id] = key
        if not keys:
            raise ConfigurationError(f"{where} holds no key; {_FIX}")
        return cls(keys)

    @classmethod
    def from_file(cls, path: Path) -> Keyring:
        """Read a key file.

        Raises:
            ConfigurationError: It is missing, everybody may read or write it, or a line is wrong.
        """
        try:
            with path.open("rb") as file:
                mode = os.fstat(file.fileno()).st_mode
                if mode & (stat.S_IROTH | stat.S_IWOTH):
                    raise ConfigurationError(f"the key file {path} is open to every user; run `chmod 600 {path}`")
                text = file.read(_MAX_FILE_BYTES + 1).decode()
        except OSError as exc:
            raise ConfigurationError(f"the key file {path} cannot be read: {exc.strerror}") from None
        except UnicodeDecodeError:
            raise ConfigurationError(f"the key file {path} is not UTF-8 text; {_FIX}") from None
        if len(text) > _MAX_FILE_BYTES:
            raise ConfigurationError(f"{path} is over {_MAX_FILE_BYTES // 1024} KiB, so it is no key file")
        return cls.from_text(text, where=f"the key file {path}")

    @classmethod
    def from_environment(cls, environment: Mapping[str, str], name: str = ENVIRONMENT_VARIABLE) -> Keyring | None:
        """Read the keys of an environment variable; None when it is not set.

        Raises:
            ConfigurationError: A key cannot be read.
        """
        text = environment.get(name)
        return None if text is None else cls.from_text(text, where=f"the environment variable {name}")

    def seal(self, value: bytes, storage_key: str) -> bytes:
        """Return the encrypted value; it can be opened under this storage key only."""
        nonce = os.urandom(_NONCE_BYTES)
        head = self._sealing_head
        encrypted: bytes = self._sealing_cipher.encrypt(nonce, value, head + storage_key.encode())
        return head + nonce + encrypted

    def open_sealed(self, sealed: bytes, storage_key: str) -> bytes:
        """Return the value.

        Raises:
            CorruptRecord: Not encrypted, of an unknown layout or key id (which is named),
                sealed with another key or for another storage key, or changed.
        """
        key_id = key_id_of(sealed)
        head = _head(key_id)
        cipher = self._ciphers.get(head)
        if cipher is None:
            raise CorruptRecord(
                f"the value is encrypted with the key {key_id!r}, which is not in the keyring; add it behind the others"
            )
        start = len(head) + _NONCE_BYTES
        nonce, encrypted = sealed[len(head) : start], sealed[start:]
        try:
            value: bytes = cipher.decrypt(nonce, encrypted, head + storage_key.encode())
        except InvalidTag:
            raise CorruptRecord(f"the encrypted value was changed or moved, or its key {key_id!r} differs") from None
        return value

    def needs_resealing(self, sealed: bytes) -> bool:
        """Tell whether a value is not sealed with the first key: a rotation still has to rewrite it."""
        return not sealed.startswith(self._sealing_head)


def is_sealed(value: bytes) -> bool:
    """Tell whether a value is encrypted; no plain value of this program begins like one."""
    return value[:1] == bytes([_MAGIC])


def key_id_of(sealed: bytes) -> str:
    """Return the id of the key that a value says it is sealed with. Nothing is checked but its form.

    Raises:
        CorruptRecord: Not encrypted, cut off, or of an unknown layout.
    """
    if not is_sealed(sealed):
        raise CorruptRecord("the value is not encrypted, and this cache reads only encrypted ones")
    if len(sealed) < 3 or sealed[1] != _LAYOUT:
        raise CorruptRecord(f"the encrypted value is cut off or has an unknown layout: {sealed[1:2].hex() or 'none'}")
    end = 3 + sealed[2]
    key_id = sealed[3:end].decode("ascii", errors="replace")
    if not _KEY_ID.fullmatch(key_id):
        raise CorruptRecord("the encrypted value holds no usable key id")
    if len(sealed) < end + _NONCE_BYTES + _TAG_BYTES:
        raise CorruptRecord("the encrypted value is cut off")
    return key_id


def _head(key_id: str) -> bytes:
    return bytes([_MAGIC, _LAYOUT, len(key_id)]) + key_id.encode()
