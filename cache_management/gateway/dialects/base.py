"""What a dialect is: one API of one provider, as the exchange uses it."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, Protocol

import msgspec

from cache_management.cache.compute import Computed
from cache_management.cache.payloads import GATEWAY
from cache_management.cache.values import CachedResponse
from cache_management.gateway.bodies import kind_of
from cache_management.gateway.calls import BadRequest, NotUnderstood
from cache_management.gateway.sse import Event

BODY = "body"
API = "api"

PLAIN_PARTS = frozenset({"text", "input_text", "output_text", "refusal", "thinking", "redacted_thinking"})
TURN_PARTS = frozenset({"tool_use", "tool_result", "function_call", "function_call_output", "reasoning"})
_OWN_NAMES = frozenset(
    {
        *("model", "system", "history", "prompt", "namespace", "messages", "tenant", "sample"),
        *("api", "base_url", "host", "query", "headers"),  # what counts beside the body
    }
)


class Reading(msgspec.Struct, frozen=True, kw_only=True):
    """A request as `CacheManager.answer` takes it; `bypass` says why it is not for the cache, if it is not."""

    history: list[dict[str, Any]]
    model: str | None
    params: dict[str, Any]
    prompt: Any = None
    system: Any = None
    streams: bool = False
    includes_usage: bool = False
    choices: int = 1
    bypass: str | None = None


class Collector(Protocol):
    """Puts the events of one stream together."""

    has_ended: bool

    def take(self, event: Event) -> None:
        """Add an event.

        Raises:
            NotUnderstood: It cannot be put together with what came before, or is an error.
        """

    def body(self) -> dict[str, Any]:
        """Return the answer as a plain request would have got it, once it `has_ended`."""


class Api(Protocol):
    """One API: how its requests are known, and how it says what is wrong."""

    name: str
    suffix: str
    home: str

    def error(self, message: str, *, status: int, param: str | None, code: str | None) -> dict[str, Any]:
        """Return the body of an error as this provider writes it."""


class Dialect(Api, Protocol):
    """Reads and writes the bodies of one API whose answers are kept whole."""

    def read(self, body: Mapping[str, Any]) -> Reading:
        """Read a request.

        Raises:
            BadRequest: The provider would not take it either.
        """

    def finished(self, body: dict[str, Any], *, choices: int = 1) -> Computed:
        """Return what is stored of an answer to a request for so many choices, the whole body included.

        Raises:
            NotUnderstood: It is no answer of this API.
        """

    def collector(self) -> Collector:
        """Return what puts a stream together."""

    def as_hit(self, body: dict[str, Any]) -> dict[str, Any]:
        """Return a stored body as it is given to another caller: marked, and with nothing to be billed."""

    def from_text(self, response: CachedResponse) -> dict[str, Any]:
        """Return a body for an answer of which only the text is known: warmed, or stored by the application."""

    def events(self, body: dict[str, Any], *, includes_usage: bool) -> Iterable[Event]:
        """Return a body as the events of a stream."""


def kept(api: str, body: dict[str, Any]) -> dict[str, Any]:
    """Return the metadata of an entry that holds a whole body."""
    return {GATEWAY: {API: api, BODY: body}}


def stored_body(response: CachedResponse, api: str) -> dict[str, Any] | None:
    """Return the body that an entry holds; None when it is of no or of another API."""
    found = response.metadata.get(GATEWAY)
    if not isinstance(found, dict) or found.get(API) != api:
        return None
    body = found.get(BODY)
    return body if isinstance(body, dict) else None


def as_params(body: Mapping[str, Any], without: Iterable[str]) -> dict[str, Any]:
    """Return the rest of a body as `params`; names that mean something else there are prefixed."""
    gone = set(without)
    return {f"body.{name}" if name in _OWN_NAMES else name: value for name, value in body.items() if name not in gone}


def is_one_of(value: object, names: Collection[str | None]) -> bool:
    """Tell whether a value of a body is one of some names; it may be of any type."""
    return (value is None or isinstance(value, str)) and value in names


def acts_now(body: Mapping[str, Any], plain_tools: Collection[str | None]) -> str | None:
    """Return why a request with tools that are not called by the application is not for the cache, if it has any."""
    tools = body.get("tools")
    if isinstance(tools, list) and any(
        isinstance(tool, dict) and not is_one_of(tool.get("type"), plain_tools) for tool in tools
    ):
        return "a tool of the provider acts, or looks something up now"
    return None


def check_text(body: Mapping[str, Any], name: str, *, required: bool = False) -> str | None:
    """Return a text of a body.

    Raises:
        BadRequest: It is another thing, or missing.
    """
    value = body.get(name)
    if value is None and not required:
        return None
    if value is None:
        raise missing(name)
    if not isinstance(value, str):
        raise wrong_type(name, "a string", value)
    return value


def check_flag(body: Mapping[str, Any], name: str) -> bool:
    """Return a flag of a body.

    Raises:
        BadRequest: It is none.
    """
    value = body.get(name)
    if value is None:
        return False
    if not isinstance(value, bool):
        raise wrong_type(name, "a boolean", value)
    return value


def check_objects(value: object, name: str) -> list[dict[str, Any]]:
    """Return a list of objects that is not empty.

    Raises:
        BadRequest: It is something else.
    """
    if value is None:
        raise missing(name)
    if not isinstance(value, list):
        raise wrong_type(name, "an array of objects", value)
    if not value:
        raise BadRequest(
            f"Invalid '{name}': empty array. Expected an array with minimum length 1, but got an empty array instead.",
            param=name,
            code="empty_array",
        )
    for at, item in enumerate(value):
        if not isinstance(item, dict):
            raise wrong_type(f"{name}[{at}]", "an object", item)
    return value


def missing(name: str) -> BadRequest:
    """Return the error for a part that is not there."""
    return BadRequest(f"Missing required parameter: '{name}'.", param=name, code="missing_required_parameter")


def wrong_type(name: str, wanted: str, value: object) -> BadRequest:
    """Return the error for a value of a wrong type."""
    return BadRequest(
        f"Invalid type for '{name}': expected {wanted}, but got {kind_of(value)} instead.",
        param=name,
        code="invalid_type",
    )


def usage_wanted(body: Mapping[str, Any]) -> bool:
    """Tell whether the stream shall end with what was used.

    Raises:
        BadRequest: `stream_options` is no object.
    """
    options = body.get("stream_options")
    if options is None:
        return False
    if not isinstance(options, dict):
        raise wrong_type("stream_options", "an object", options)
    return options.get("include_usage") is True


def exact_only(history: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return a conversation whose answer is not searched by meaning: a turn that carries more than text never is."""
    return [dict(message) for message in history[:-1]] + [{**history[-1], "exact_only": True}]


def has_media(history: Iterable[Mapping[str, Any]]) -> bool:
    """Tell whether a conversation holds pictures, sound or files."""
    for message in history:
        content = message.get("content")
        if isinstance(content, list) and any(
            not isinstance(part, dict) or not is_one_of(part.get("type"), PLAIN_PARTS | TURN_PARTS) for part in content
        ):
            return True
    return False


def objects(value: object, name: str) -> list[dict[str, Any]]:
    """Return a list of objects of an answer.

    Raises:
        NotUnderstood: It is something else.
    """
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise NotUnderstood(f"{name} is no array of objects")
    return value


def tokens(body: Mapping[str, Any], name: str) -> int:
    """Return a count of the usage of an answer, 0 when it says none."""
    usage = body.get("usage")
    found = usage.get(name) if isinstance(usage, dict) else None
    return found if isinstance(found, int) and not isinstance(found, bool) and found > 0 else 0


def openai_error(message: str, *, status: int, param: str | None, code: str | None) -> dict[str, Any]:
    """Return the body of an error as OpenAI writes it."""
    kind = {
        401: "authentication_error",
        403: "permission_error",
        404: "not_found_error",
        429: "rate_limit_error",
    }.get(status, "invalid_request_error" if status < 500 else "server_error")
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}
