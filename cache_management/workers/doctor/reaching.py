"""Parts that do not answer: why that matters, and the way out by what was said."""

from __future__ import annotations

import re
from typing import Literal

from cache_management.cache.findings import Finding

Part = Literal["broker", "metadata", "cache store"]

_WHY: dict[Part, str] = {
    "broker": "commands submit no job; what programs give to enqueue_warm waits until it answers",
    "metadata": "no job can be submitted, and workers cannot go on",
    "cache store": "every lookup is a miss, and nothing is stored",
}
_SETTINGS: dict[Part, str] = {
    "broker": "broker_url",
    "metadata": "metadata_url",
    "cache store": "url, or redis_host and redis_port",
}
_STARTS: dict[Part, str] = {
    "broker": "`cache-cli up` starts one",
    "metadata": "without metadata_url a SQLite file is used",
    "cache store": "`redis-cli ping` on its host answers PONG when it runs",
}
# The first that is found in what was said. Texts are the server's, its driver's or the system's: nobody gives codes.
_BY_REASON: tuple[tuple[str, str], ...] = (
    (r"pip install", "install what it names"),
    (r"db upgrade|revision", "run `cache-cli db upgrade`, with this version"),
    (r"WRONGPASS|NOAUTH|Authentication|username-password|password", "correct user and password in {setting}"),
    (r"NOPERM|permission", "give its user the rights that docs/security.md lists"),
    (r"has the url|redis\+cluster://|of a Redis Cluster", "set url as it says"),
    (r"speak the Redis|Protocol error", "something else than Redis or Valkey answers there: correct {setting}"),
    (r"certificate|CERTIFICATE|SSL|TLS", "use rediss:// (or redis_ssl) where the server speaks TLS, and only there"),
    (r"not known|getaddrinfo|resolv|nodename", "its name means nothing here: correct {setting}, or the DNS"),
    (r"maxclients|number of clients", "end clients that idle, or raise maxclients on the server"),
    (r"LOADING", "wait: it is reading its data"),
    (r"MISCONF|No space|disk is full|database or disk", "make room on its disk"),
    (r"OOM|OutOfMemory|maxmemory", "it is full: raise its maxmemory, or remove what else is in it"),
    (r"READONLY|ReadOnly|read only|replica\b", "it is a replica: set {setting} to the server that it follows"),
    (r"locked", "another process holds the file: let it end"),
    (r"no such table|unable to open|readonly database", "correct {setting}, or the rights to its folder"),
    (r"refused|Connect call failed|ECONNREFUSED|111", "nothing listens there: start it, or correct {setting}; {start}"),
    (
        r"no answer|[Tt]imed? ?out|not respond",
        "it is frozen, overloaded or behind a firewall, or one side speaks TLS: look at its host and its log",
    ),
)


def unreached(part: Part, reason: str, *, on_nodes: bool = False) -> Finding:
    """Return what it means that a part does not answer.

    Args:
        reason: What was said instead of an answer.
        on_nodes: The store is a replicated cache.
    """
    setting = "distributed.nodes, and the redis_* settings," if on_nodes else _SETTINGS[part]
    way_out = f"start it, or correct {setting}; {_STARTS[part]}"
    for pattern, words in _BY_REASON:
        if re.search(pattern, reason):
            way_out = words.format(setting=setting, start=_STARTS[part])
            break
    return Finding(part, "fail", reason, _WHY[part], way_out)
