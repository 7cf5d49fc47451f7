"""What makes two requests the same: the request, its canonical form and its fingerprints.

A request is brought into canonical form once, by `make_request`: what cannot change the
answer is left out, what can is kept, and a parameter nobody knows counts as different.
The fingerprints are hashes of that form; their prefix is the number of the layout.
See docs/design/0006-request-identity.md.
"""

from __future__ import annotations

import hashlib
import math
import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any, Final

import msgspec

from cache_management.cache.errors import InvalidInput
from cache_management.cache.identity import MAX_KEY_BYTES, check_namespace

MAX_DEPTH = 64
ROLES = frozenset({"system", "developer", "user", "assistant", "tool", "function"})

IGNORED = frozenset(
    {
        *("api_key", "api-key", "apikey", "api_token", "authorization", "aws_access_key_id"),
        *("aws_secret_access_key", "aws_session_token", "azure_ad_token", "vertex_credentials"),
        *("timeout", "request_timeout", "stream_timeout", "max_retries", "num_retries"),
        *("request_id", "request-id", "x-request-id", "trace_id", "idempotency_key", "litellm_call_id"),
        *("user_agent", "user-agent"),
        *("stream", "stream_options"),
    }
)
"""Parameters that cannot change the answer. Names ending in `api_key` are ignored too."""

HEADER_PARAMS = frozenset({"headers", "extra_headers", "default_headers"})
IGNORED_HEADERS = frozenset(
    {
        *("authorization", "proxy-authorization", "api-key", "x-api-key", "x-goog-api-key"),
        *("user-agent", "x-request-id", "request-id", "x-client-request-id", "traceparent", "tracestate"),
        *("idempotency-key", "content-length", "content-type", "accept", "accept-encoding", "connection", "host"),
    }
)
"""HTTP headers that cannot change the answer; any other header counts, such as `anthropic-beta`."""

DEFAULTS: Final[Mapping[str, Any]] = {
    "n": 1,
    "frequency_penalty": 0,
    "presence_penalty": 0,
    "logit_bias": {},
    "logprobs": False,
    "response_format": {"type": "text"},
}
"""What omitting a parameter means with every model. Temperature and top_p are not here: models differ."""

_OWN_ARGUMENT = {
    **{name: f"give it as {name}=" for name in ("model", "system", "history", "prompt", "namespace")},
    "messages": "give it as prompt= and history=",
    "tenant": "give each tenant a namespace= of its own, or tenant= to make_request",
    "sample": "ask for a further answer with controls={'no-cache': True}, or give sample= to make_request",
}
_SECRET_NAME = re.compile(
    r"(?:^|[_\-.])(?:api[_-]?key|secret|secret[_-]?key|password|passwd|authorization|credentials?|cookie"
    r"|private[_-]?key|(?:access|auth|bearer|session|refresh|id|api)[_-]token)$|^token$",
    re.IGNORECASE,
)
_FINGERPRINT_LIKE = re.compile(r"f[pc][0-9]+:[0-9a-f]*")
_BIG_INTEGER = 1
_encode = msgspec.msgpack.Encoder(order="deterministic").encode

Content = str | list[dict[str, Any]]


class Request(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """One question to a model with all that decides the answer. Built by `make_request` only.

    `prompt` is the last user turn, or None when the conversation ends in another turn (a
    tool's answer, say). All but a plain `prompt` is in canonical form; compare fingerprints.
    """

    prompt: Content | None
    model: str | None = None
    system: Content | None = None
    history: tuple[dict[str, Any], ...] = ()
    tools: list[Any] | None = None
    tool_choice: Any = None
    response_format: Any = None
    params: dict[str, Any] = msgspec.field(default_factory=dict)
    namespace: str | None = None
    tenant: str | None = None
    sample: int = 0

    def __repr__(self) -> str:
        # Prompts and parameters do not belong into logs and tracebacks.
        return f"<Request {fingerprint(self)[:16]}… of {len(self.history)} earlier messages>"

    @property
    def last_text(self) -> str | None:
        """Return the text of the last user turn, its parts joined by newlines; None without such a turn."""
        if self.prompt is None or isinstance(self.prompt, str):
            return self.prompt
        texts = [part["text"] for part in self.prompt if _is_text(part)]
        return "\n".join(texts) if texts else None


def make_request(
    prompt: str | Sequence[Mapping[str, Any]] | None,
    *,
    model: str | None = None,
    system: str | Sequence[Mapping[str, Any]] | None = None,
    history: Sequence[Mapping[str, Any]] = (),
    params: Mapping[str, Any] | None = None,
    namespace: str | None = None,
    tenant: str | None = None,
    sample: int = 0,
    known_defaults: Mapping[str, Mapping[str, Any]] | None = None,
) -> Request:
    """Check a request and bring it into canonical form.

    Args:
        prompt: Text, or content parts; None when `history` is the whole conversation.
        history: Chat messages, oldest first.
        params: The rest of the request, tools and response_format included.
        sample: 0 for the first answer to this request, 1 for the second one, ...
        known_defaults: By model, what omitting a parameter means there. Use one table for one store.

    Raises:
        InvalidInput: A part is not JSON, nested too deeply, not valid Unicode, or of a wrong shape; names it.
    """
    if namespace is not None:
        check_namespace(_text(namespace, "namespace"))
    if sample.__class__ is not int or sample < 0:
        raise InvalidInput(f"sample must be a whole number from 0, not {sample!r}")
    messages = _messages(history) if history else []
    asked = None if prompt is None else _content(prompt, "prompt")
    if asked is None:
        if not messages:
            raise InvalidInput("a request needs a prompt or a history")
        if messages[-1]["role"] == "user" and len(messages[-1]) == 2:
            asked = messages.pop()["content"]
    elif isinstance(prompt, str):
        # As given, because it is the key that LLMCache.set(prompt, ...) stores under.
        asked = str.__str__(prompt)
    told = None if system is None else _content(system, "system")
    if told is None and messages and messages[0]["role"] == "system" and len(messages[0]) == 2:
        told = messages.pop(0)["content"]
    model = None if model is None else _text(model, "model")
    rest = _params(params, (known_defaults or {}).get(model or "", {})) if params else {}
    tools, choice = rest.pop("tools", None), rest.pop("tool_choice", None)
    if tools is not None and not isinstance(tools, list):
        raise InvalidInput(f"params.tools must be a list, not {type(tools).__name__}")
    return Request(
        prompt=asked,
        model=model,
        system=told,
        history=tuple(messages),
        tools=tools or None,
        tool_choice=None if choice == ("auto" if tools else "none") else choice,
        response_format=rest.pop("response_format", None),
        params=rest,
        namespace=namespace,
        tenant=None if tenant is None else _text(tenant, "tenant"),
        sample=sample,
    )


def fingerprint(request: Request) -> str:
    """Return the name of the whole request: equal exactly when the canonical forms are equal."""
    form = canonical(request)
    messages = form.pop("messages")
    hashed = hashlib.blake2b(_encode(form), digest_size=32, person=b"cm:fp2")
    for message in messages:
        hashed.update(_encode(message))
    return "fp2:" + hashed.hexdigest()


def turn_keys(request: Request) -> dict[int, str]:
    """Return the keys of the requests that the user turns of a history were, by their place in it.

    They come from one pass: a conversation of n turns is hashed once, not n times.
    """
    form = canonical(msgspec.structs.replace(request, prompt=None, history=()))
    messages = form.pop("messages")
    hashed = hashlib.blake2b(_encode(form), digest_size=32, person=b"cm:fp2")
    for message in messages:
        hashed.update(_encode(message))
    found = {}
    for at, message in enumerate(request.history):
        hashed.update(_encode(message))
        if message["role"] == "user" and len(message) == 2:
            # Only the first turn of all can be a prompt alone, whose key is that prompt.
            found[at] = "fp2:" + hashed.copy().hexdigest() if at else entry_key(turn_at(request, at))
    return found


def turn_at(request: Request, at: int) -> Request:
    """Return the request that a user turn of a history was."""
    return msgspec.structs.replace(request, prompt=request.history[at]["content"], history=request.history[:at])


def compatibility(request: Request, *, chain: str | None = None) -> str:
    """Return the name of the request without its last user text.

    A paraphrase in the same context has the same one; a search by meaning never leaves it. A
    `chain` stands in the place of the history, see `semantic/chains.py`.
    """
    form = canonical(request if chain is None else msgspec.structs.replace(request, history=()))
    if chain is not None:
        form["chain"] = chain
    if request.prompt is not None:
        content = form["messages"][-1]["content"]
        form["messages"][-1] = {
            "role": "user",
            "content": None
            if isinstance(content, str)
            else [{**part, "text": None} if _is_text(part) else part for part in content],
        }
    return "fc1:" + _hash(b"cm:fc1", form)


def entry_key(request: Request) -> str:
    """Return the key of the request's entry, within its namespace.

    A request that carries nothing but a prompt has the prompt itself, so that
    `LLMCache.set(prompt, ...)` and a lookup agree; any other has its fingerprint. So has a
    prompt that cannot be a key (empty, over 64 KiB) and one that looks like a fingerprint:
    no prompt can name another request's entry.
    """
    prompt = request.prompt
    if (
        isinstance(prompt, str)
        and is_bare(request)
        and not is_reserved_key(prompt)
        and 0 < len(prompt.encode()) <= MAX_KEY_BYTES
    ):
        return prompt
    return fingerprint(request)


def is_bare(request: Request) -> bool:
    """Tell whether a request carries nothing but a text to ask."""
    return (
        isinstance(request.prompt, str)
        and request.model is None
        and request.system is None
        and request.tools is None
        and request.tool_choice is None
        and request.response_format is None
        and request.tenant is None
        and not (request.history or request.params or request.sample)
    )


def is_reserved_key(key: str) -> bool:
    """Tell whether a key has the form of a fingerprint, so that no plain entry should be stored under it."""
    return key.startswith("f") and _FINGERPRINT_LIKE.fullmatch(key) is not None


def searchable_text(request: Request) -> str | None:
    """Return the text to search by meaning, or None when only an exact hit may serve the request.

    Exact only: no user turn at the end, no text in it, or a further sample of the same request.
    """
    text = request.last_text
    return text if text and not request.sample and _shows(text) else None


def _shows(text: str) -> bool:
    """Tell whether there is anything to see: no embedding model tells two kinds of nothing apart."""
    return any(not sign.isspace() and unicodedata.category(sign) not in {"Cf", "Cc"} for sign in text)


def canonical(request: Request) -> dict[str, Any]:
    """Return the form that is hashed; what is omitted or at its default is not in it."""
    messages: list[Any] = list(request.history)
    if request.system is not None:
        messages.insert(0, {"role": "system", "content": request.system})
    if request.prompt is not None:
        content = _nfc(request.prompt) if isinstance(request.prompt, str) else request.prompt
        messages.append({"role": "user", "content": content})
    form: dict[str, Any] = {"messages": messages}
    if request.model is not None:
        form["model"] = request.model
    if request.tools is not None:
        form["tools"] = request.tools
    if request.tool_choice is not None:
        form["tool_choice"] = request.tool_choice
    if request.response_format is not None:
        form["response_format"] = request.response_format
    if request.params:
        form["params"] = request.params
    if request.namespace is not None:
        form["namespace"] = request.namespace
    if request.tenant is not None:
        form["tenant"] = request.tenant
    if request.sample:
        form["sample"] = request.sample
    return form


def has_secrets(request: Request) -> bool:
    """Tell whether a parameter or header is a secret: known by a digest only, or not to be kept."""
    return _names_secret(request.params)


def _names_secret(value: Any) -> bool:
    if isinstance(value, dict):
        return any(is_secret_name(name) or _names_secret(item) for name, item in value.items())
    return isinstance(value, list) and any(map(_names_secret, value))


@lru_cache(maxsize=4096)
def is_secret_name(name: str) -> bool:
    """Tell whether a value under this name must not be shown."""
    return _SECRET_NAME.search(name) is not None


def big_integer(value: msgspec.msgpack.Ext) -> int:
    """Return the whole number beyond 64 bits that stands in a canonical form."""
    return int(bytes(value.data), 16)


def _hash(purpose: bytes, form: dict[str, Any]) -> str:
    return hashlib.blake2b(_encode(form), digest_size=32, person=purpose).hexdigest()


def _canonical(value: Any, depth: int = MAX_DEPTH) -> Any:
    kind = value.__class__
    if kind is str:
        return value if value.isascii() else _nfc(value)
    if kind is bool or value is None:
        return value
    if kind is int:
        return value if -(2**63) <= value < 2**64 else _beyond_64_bits(value)
    if kind is float:
        return _real(value)
    if kind is dict:
        if not depth:
            raise InvalidInput(f"is nested deeper than {MAX_DEPTH} levels")
        found = {}
        for name, item in value.items():
            if not isinstance(name, str):
                raise InvalidInput(f"has a name that is no text: {name!r:.40}")
            # Plain text is most of what there is; to look here saves half of the calls.
            found[name if name.__class__ is str and name.isascii() else _canonical(name)] = (
                item if item.__class__ is str and item.isascii() else _canonical(item, depth - 1)
            )
        if len(found) != len(value):
            raise InvalidInput("has two names that differ only in their Unicode form")
        return found
    if kind is list or kind is tuple:
        if not depth:
            raise InvalidInput(f"is nested deeper than {MAX_DEPTH} levels")
        return [_canonical(item, depth - 1) for item in value]
    return _canonical(_to_plain(value), depth)


def _to_plain(value: object) -> object:
    """Return a value of a subclass (an enum, an ordered dict) as the plain type that it is."""
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value)
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, list | tuple):
        return list(value)
    raise InvalidInput(f"is not JSON: {type(value).__name__}")


def _nfc(text: str) -> str:
    if text.isascii():
        return text
    try:
        text.encode()
    except UnicodeEncodeError as exc:
        raise InvalidInput(f"is not valid Unicode at character {exc.start}: {exc.reason}") from None
    return unicodedata.normalize("NFC", text)


def _real(value: float) -> int | float:
    if not math.isfinite(value):
        raise InvalidInput(f"is not JSON: {value}")
    return int(value) if value.is_integer() and -(2.0**63) <= value < 2.0**64 else value


def _beyond_64_bits(value: int) -> float | msgspec.msgpack.Ext:
    """Return the float that is exactly this number, or else the number as an extension type."""
    try:
        real = float(value)
    except OverflowError:
        real = math.inf
    if math.isfinite(real) and int(real) == value:
        return real
    return msgspec.msgpack.Ext(_BIG_INTEGER, b"%x" % value)


def _checked(value: Any, where: str) -> Any:
    """Return the canonical form; errors name the part, such as `history[2].content`."""
    try:
        return _canonical(value)
    except InvalidInput as exc:
        raise InvalidInput(f"{_shortened(_locate(value, where, MAX_DEPTH))} {exc}") from None


def _locate(value: Any, where: str, depth: int) -> str:
    """Return the path of the innermost part that is refused."""
    for step, item in _children(value) if depth else ():
        try:
            _canonical(item, depth - 1)
        except InvalidInput:
            return _locate(item, where + step, depth - 1)
    return where


def _shortened(path: str) -> str:
    return path if len(path) <= 120 else f"{path[:80]} … {path[-30:]}"


def _children(value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        yield from ((f".{name}"[:80], item) for name, item in value.items())
    elif isinstance(value, list | tuple):
        yield from ((f"[{at}]", item) for at, item in enumerate(value))


def _text(value: object, where: str) -> str:
    if not isinstance(value, str) or not value:
        raise InvalidInput(f"{where} must be text and not empty, not {value!r:.40}")
    found: str = _checked(value, where)
    return found


def _messages(history: object) -> list[dict[str, Any]]:
    if isinstance(history, str) or not isinstance(history, Sequence):
        raise InvalidInput(f"history must be a list of chat messages, not {type(history).__name__}")
    messages: list[dict[str, Any]] = []
    for at, message in enumerate(history):
        where = f"history[{at}]"
        if not isinstance(message, Mapping):
            raise InvalidInput(f"{where} must be a chat message with role and content, not {type(message).__name__}")
        found = {name: item for name, item in _checked(message, where).items() if item is not None}
        role = found.get("role")
        if not isinstance(role, str) or role not in ROLES:
            raise InvalidInput(f"{where}.role must be one of {', '.join(sorted(ROLES))}, not {role!r:.40}")
        if "content" in found:
            found["content"] = _shaped(found["content"], f"{where}.content")
        elif role != "assistant":
            raise InvalidInput(f"{where} has no content")
        messages.append(found)
    return messages


def _content(content: object, where: str) -> Content:
    return _shaped(_checked(content, where), where)


def _shaped(content: Any, where: str) -> Content:
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise InvalidInput(f"{where} must be text or a list of content parts, not {type(content).__name__}")
    for at, part in enumerate(content):
        if not isinstance(part, dict) or not isinstance(part.get("type"), str):
            raise InvalidInput(f"{where}[{at}] must be a content part with a type")
    # One part of nothing but text is what chat APIs define text content to mean.
    if len(content) == 1 and content[0].keys() == {"type", "text"} and _is_text(content[0]):
        text: str = content[0]["text"]
        return text
    return content


def _is_text(part: Mapping[str, Any]) -> bool:
    return part["type"] in {"text", "input_text"} and isinstance(part.get("text"), str)


def _params(params: Mapping[str, Any], known: Mapping[str, Any]) -> dict[str, Any]:
    if not isinstance(params, Mapping):
        raise InvalidInput(f"params must be a mapping, not {type(params).__name__}")
    kept: dict[str, Any] = {}
    for name, value in params.items():
        if value is None or _is_ignored(name):
            continue
        if name in _OWN_ARGUMENT:
            raise InvalidInput(f"params must not hold {name!r}; {_OWN_ARGUMENT[name]}")
        kept[name] = value
    found: dict[str, Any] = _checked(kept, "params")
    for name, value in list(found.items()):
        if name in HEADER_PARAMS:
            found[name] = _headers(value, name)
            is_default = not found[name]
        elif is_secret_name(name):
            found[name] = _sealed(value)
            is_default = False
        else:
            is_default = (name in known or name in DEFAULTS) and _same(value, known.get(name, DEFAULTS.get(name)))
        if is_default:
            del found[name]
    return found


def _is_ignored(name: object) -> bool:
    return isinstance(name, str) and (name in IGNORED or name.endswith(("api_key", "api-key")))


def _same(value: object, default: object) -> bool:
    # As bytes, because for Python True is 1.
    return _encode(value) == _encode(_checked(default, "known_defaults"))


def _headers(headers: object, where: str) -> dict[str, Any]:
    if not isinstance(headers, dict):
        raise InvalidInput(f"params.{where} must be a mapping, not {type(headers).__name__}")
    found: dict[str, Any] = {}
    for given, value in headers.items():
        name = given.lower()
        if name in IGNORED_HEADERS or value is None:
            continue
        if name in found:
            raise InvalidInput(f"params.{where} has the header {name!r} twice")
        found[name] = _sealed(value) if is_secret_name(name) else value
    return found


def _sealed(value: object) -> str:
    """Return a digest in the place of a secret that may change the answer."""
    return "sealed:" + hashlib.blake2b(_encode(value), digest_size=32, person=b"cm:sealed").hexdigest()
