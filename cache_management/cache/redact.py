"""Hides passwords in what people get to see."""

from __future__ import annotations

import re

_HIDDEN = "********"
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.\-]{0,40}://")
_NEXT_URL = re.compile(r"[\s'\"<>(=,\[][A-Za-z][A-Za-z0-9+.\-]{0,40}://|[\r\n]")
_SPACE = re.compile(r"\s|$")
_SECRET_PARAMETER = re.compile(r"(?i)([?&;][^=&;#]*(?:pass|pwd|secret|token|key)[^=&;#]*=)[^&;#]+")


def hide_password(url: str) -> str:
    """Return a URL without its password, be that before the host or among the parameters."""
    scheme, separator, rest = url.partition("://")
    if not separator:
        return url
    # A password may hold an unescaped "/", "?" or "@": the last "@" ends it. Rather hide too much.
    credentials, at, place = rest.rpartition("@")
    name, _, password = credentials.partition(":")
    if at and password and not rest.startswith("/"):  # a path has no password
        rest = f"{name}:{_HIDDEN}@{place}"
    return f"{scheme}://" + _SECRET_PARAMETER.sub(lambda found: found[1] + _HIDDEN, rest)


def hide_passwords(text: str) -> str:
    """Return a text without the passwords of the URLs in it."""
    shown = []
    at = 0
    while found := _SCHEME.search(text, at):
        end = _end_of_url(text, found.end())
        shown += [text[at : found.start()], hide_password(text[found.start() : end])]
        at = end
    return "".join(shown) + text[at:]


def _end_of_url(text: str, start: int) -> int:
    """Return where a URL ends whose scheme ends at `start`.

    White space ends it, unless a password that holds some may go on: up to the last "@" before the next URL or line.
    """
    following = _NEXT_URL.search(text, start)
    limit = following.start() if following else len(text)
    space = _place(_SPACE, text, start, limit)
    colon = text.find(":", start, space)
    last = text.rfind("@", start, limit)
    if last > space and colon >= 0 and "/" not in text[start:colon]:
        return _place(_SPACE, text, last, limit)
    return space


def _place(pattern: re.Pattern[str], text: str, start: int, limit: int) -> int:
    found = pattern.search(text, start, limit)
    return found.start() if found else limit
