"""Hides passwords in what people get to see."""

from __future__ import annotations

import re

_HIDDEN = "********"
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.\-]*://[^\s'\"<>]+")
_SECRET_PARAMETER = re.compile(r"(?i)([?&;][^=&;#]*(?:pass|pwd|secret|token|key)[^=&;#]*=)[^&;#]*")


def hide_password(url: str) -> str:
    """Return a URL without its password, be that before the host or among the parameters."""
    scheme, separator, rest = url.partition("://")
    if not separator:
        return url
    # A password may hold an unescaped "/", "?" or "@": the last "@" ends it. Rather hide too much.
    credentials, at, place = rest.rpartition("@")
    name, colon, _ = credentials.partition(":")
    if at and colon:
        rest = f"{name}:{_HIDDEN}@{place}"
    return f"{scheme}://" + _SECRET_PARAMETER.sub(lambda found: found[1] + _HIDDEN, rest)


def hide_passwords(text: str) -> str:
    """Return a text without the passwords of the URLs in it."""
    return _URL.sub(lambda found: hide_password(found[0]), text)
