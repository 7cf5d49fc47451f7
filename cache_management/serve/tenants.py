"""Whose entries a caller sees: its API key says which namespace, and no two keys share one unless a table says so.

Keys are neither stored nor logged. What is derived from one is a keyed digest: from a namespace nobody finds a key.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
from collections.abc import Mapping
from pathlib import Path

from cache_management.cache.errors import ConfigurationError
from cache_management.gateway.calls import Headers, header
from cache_management.gateway.headers import is_credential

KEY_HEADERS = ("authorization", "x-api-key", "api-key")
_SECRET_BYTES = 32


class Tenants:
    """Namespaces by API key.

    Args:
        table: SHA-256 of a key in hexadecimal digits -> its namespace.
        secret: What the other namespaces are derived with; processes that share a store share it.
        anonymous: The namespace of callers without a key.
        only_known: Refuse what is not in the table.
    """

    def __init__(self, table: Mapping[str, str], *, secret: bytes, anonymous: str, only_known: bool = False) -> None:
        self._table = {digest.lower(): namespace for digest, namespace in table.items()}
        self._secret = secret
        self._anonymous = anonymous
        self._only_known = only_known

    def namespace(self, headers: Headers) -> str | None:
        """Return the namespace of a caller; None for one who is refused."""
        given = _encoded(key_of(headers))
        known = self._table.get(hashlib.sha256(given).hexdigest()) if given else None
        if known is not None:
            return known
        if self._only_known:
            return None
        given += _encoded(_other_credentials(headers))
        return "key-" + hmac.digest(self._secret, given, "sha256").hex()[:40] if given else self._anonymous


def key_of(headers: Headers) -> str:
    """Return the API key of a request, "" where there is none; of several all count."""
    found = []
    for name in KEY_HEADERS:
        value = header(headers, name)
        if value:
            kind, _, bare = value.partition(" ")
            found.append(bare.strip() if kind.lower() == "bearer" else value)
    return "\0".join(found)


def _other_credentials(headers: Headers) -> str:
    """Return what else says who asks, such as a cookie: it may be that by which the provider knows its callers."""
    found = sorted((name.lower(), value) for name, value in headers if is_credential(name.lower()))
    return "".join(f"\0{name}={value}" for name, value in found if name not in KEY_HEADERS)


def _encoded(text: str) -> bytes:
    return text.encode("latin-1")


def secret_of(folder: Path) -> bytes:
    """Return the secret of this installation, made at first use and readable by its owner alone.

    Raises:
        ConfigurationError: It cannot be read or made.
    """
    file = folder / "serve.key"
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        made = f"{file}.{os.getpid()}"
        try:
            return _checked(file)
        except FileNotFoundError:
            descriptor = os.open(made, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "wb") as out:
                out.write(secrets.token_bytes(_SECRET_BYTES))
            try:
                os.link(made, file)  # never over one that another process made meanwhile
            except FileExistsError:
                pass
            finally:
                Path(made).unlink()
            return _checked(file)
    except OSError as exc:
        raise ConfigurationError(f"{file} cannot be used: {exc.strerror}; set serve.digest_key") from exc


def _checked(file: Path) -> bytes:
    found = file.read_bytes()
    if len(found) < _SECRET_BYTES:
        raise ConfigurationError(f"{file} is too short to be a secret; delete it, and callers get new namespaces")
    return found
