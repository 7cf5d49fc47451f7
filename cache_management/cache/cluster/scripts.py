"""The Lua scripts that run on the nodes of a replicated cache."""

from __future__ import annotations

import hashlib
from functools import cache
from importlib.resources import files
from typing import Literal

import msgspec

ScriptName = Literal[
    "put", "heads", "shed", "recount", "lease", "promise", "accept", "remark", "tag", "note", "only", "empty"
]


class Script(msgspec.Struct, frozen=True):
    """A script and the name that a server knows it by."""

    text: str
    digest: str


@cache
def script(name: ScriptName) -> Script:
    """Return a script; what it wants and answers is written at its top."""
    text = (files("cache_management.cache.cluster") / "lua" / f"{name}.lua").read_text()
    return Script(text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest())
