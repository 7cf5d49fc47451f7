"""Reads an HTTP request: what is asked, whose entries it sees, and what of it counts.

body -> strictly (bodies) -> wishes (controls) -> the dialect's reading -> Asked, with the key of its entry
else -> the call as it goes to the provider: what is not for the cache, or of a shape that is not known here
"""

from __future__ import annotations

import json
from collections.abc import Collection
from typing import Any, cast

import msgspec

from cache_management.cache.compute import Computed
from cache_management.cache.errors import InvalidInput
from cache_management.cache.identity import digest
from cache_management.cache.requests import entry_key, is_reserved_key, make_request
from cache_management.gateway.bodies import read_request
from cache_management.gateway.calls import BadRequest, Call, for_upstream
from cache_management.gateway.controls import Wishes, read_wishes
from cache_management.gateway.dialects.base import Api, Dialect, Reading
from cache_management.gateway.dialects.embeddings import Embeddings
from cache_management.gateway.headers import telling_headers
from cache_management.gateway.vectors import AskedVectors, keys_of

LITELLM_FIELD = "cache"


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """A request that the cache may answer."""

    dialect: Dialect
    reading: Reading
    call: Call
    wishes: Wishes
    namespace: str | None
    key: str
    label: str = "miss"

    def anew(self) -> Asked:
        """Return the same, to be asked of the provider whatever is stored."""
        wishes = msgspec.structs.replace(self.wishes, controls={**self.wishes.controls, "no-cache": True})
        return msgspec.structs.replace(self, wishes=wishes)

    def finished(self, body: dict[str, Any]) -> Computed:
        """Return what is stored of an answer; see `Dialect.finished`."""
        return self.dialect.finished(body, choices=self.reading.choices)


class _Opened(msgspec.Struct, frozen=True):
    """A request whose body and wishes are read; `place` counts beside the body."""

    call: Call
    body: dict[str, Any]
    wishes: Wishes
    namespace: str | None
    place: dict[str, Any]


class Reader:
    """Reads requests for one exchange; see `Exchange` for its arguments."""

    def __init__(
        self,
        *,
        namespace: str | None,
        may_choose_namespace: bool,
        answers_bad_bodies: bool,
        ignored_headers: Collection[str],
    ) -> None:
        self._namespace = namespace
        self._may_choose = may_choose_namespace
        self._answers_bad_bodies = answers_bad_bodies
        self._ignored_headers = frozenset(ignored_headers)

    def read(self, dialect: Api, call: Call, namespace: str | None) -> Asked | AskedVectors | Call:
        """Return what is asked, or the call as it goes to the provider when that is nothing for the cache.

        Raises:
            BadRequest: It is not to be sent.
        """
        sent = msgspec.structs.replace(call, headers=for_upstream(call.headers))
        try:
            body = read_request(call.body)
        except BadRequest:
            if self._answers_bad_bodies:
                raise
            return sent
        # A field of that name which is no object is somebody else's.
        ours = isinstance(body.get(LITELLM_FIELD), dict)
        wishes = read_wishes(call.headers, body[LITELLM_FIELD] if ours else None)
        if ours:
            body = {name: value for name, value in body.items() if name != LITELLM_FIELD}
            sent = msgspec.structs.replace(sent, body=json.dumps(body).encode())  # any text, also half a character
        within = self._namespace_of(wishes, self._namespace if namespace is None else namespace)
        opened = _Opened(sent, body, wishes, within, _place(dialect, call, self._ignored_headers))
        try:
            if isinstance(dialect, Embeddings):
                return _read_vectors(dialect, opened)
            return _read_question(cast("Dialect", dialect), opened)
        except BadRequest:
            if self._answers_bad_bodies:
                raise
            return sent
        except InvalidInput:
            return sent  # of a shape that is not known here; the provider may take it

    def _namespace_of(self, wishes: Wishes, given: str | None) -> str | None:
        """Return the namespace of a request: one that is chosen lies within the given one.

        Raises:
            BadRequest: None may be chosen here.
        """
        chosen = wishes.namespace
        if chosen is None:
            return given
        if not self._may_choose:
            raise BadRequest(
                "a namespace cannot be chosen here", param="x-cache-namespace", code="namespace_not_allowed", status=403
            )
        return chosen if given is None else nested(given, chosen)


def nested(namespace: str, chosen: str) -> str:
    """Return the name of a namespace within another one: no two pairs have the same."""
    return "in-" + digest(f"{namespace}\0{chosen}")


def _read_vectors(api: Embeddings, opened: _Opened) -> AskedVectors | Call:
    wanted = api.read(opened.body)
    if wanted.bypass is not None:
        return opened.call
    wanted = msgspec.structs.replace(wanted, params={**wanted.params, **opened.place})
    return AskedVectors(
        call=opened.call,
        body=opened.body,
        wanted=wanted,
        wishes=opened.wishes,
        namespace=opened.namespace,
        keys=keys_of(wanted),
    )


def _read_question(dialect: Dialect, opened: _Opened) -> Asked | Call:
    reading = dialect.read(opened.body)
    if reading.bypass is not None:
        return opened.call
    if opened.place:
        reading = msgspec.structs.replace(reading, params={**reading.params, **opened.place})
    request = make_request(
        reading.prompt, model=reading.model, system=reading.system, history=reading.history, params=reading.params
    )
    key = entry_key(request)
    return Asked(
        dialect=dialect,
        reading=reading,
        call=opened.call,
        wishes=opened.wishes,
        namespace=opened.namespace,
        key=key if is_reserved_key(key) else digest(key),
        label=opened.wishes.label,
    )


def _place(api: Api, call: Call, ignored: Collection[str]) -> dict[str, Any]:
    """Return what counts beside the body: an unusual address, a query, and headers that may change an answer."""
    found: dict[str, Any] = {}
    path, _, query = call.path.partition("?")
    address = call.base + path.removesuffix(api.suffix)
    if address and address != api.home:
        found["base_url"] = address
    if call.host is not None:
        found["host"] = call.host
    if query:
        found["query"] = query
    told = telling_headers(call.headers, ignored)
    if told:
        found["headers"] = told
    return found
