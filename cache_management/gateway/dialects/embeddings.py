"""OpenAI embeddings: `POST .../embeddings`. Each input is an entry of its own, found exactly only."""

from __future__ import annotations

import base64
import binascii
import struct
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from cache_management.cache.errors import InvalidInput
from cache_management.cache.identity import digest
from cache_management.cache.values import CachedResponse
from cache_management.gateway.bodies import encode
from cache_management.gateway.calls import BadRequest, NotUnderstood
from cache_management.gateway.dialects.base import (
    as_params,
    check_text,
    kept,
    missing,
    objects,
    openai_error,
    stored_body,
    wrong_type,
)

Input = str | list[int]
_FORMATS = frozenset({None, "float", "base64"})
_MOST_INPUTS = 2048  # of OpenAI's API: more are the provider's to judge
# Parameters that say how numbers are written, of Jina, Voyage, Cohere and others: then nothing is converted here.
_TYPES = ("output_dtype", "dtype", "embedding_type", "embedding_types", "output_type", "return_type")


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """What a request asks: the vectors of some inputs, under the same conditions; `as_it_comes`: in no form of ours."""

    inputs: list[Input]
    model: str | None
    params: dict[str, Any]
    packs: bool
    as_it_comes: bool
    bypass: str | None

    def turn(self, given: Input) -> list[dict[str, Any]]:
        """Return an input as a conversation of one turn, which is no user's, so that meaning has no part in it."""
        if isinstance(given, str):
            if unicodedata.is_normalized("NFC", given):
                return [{"role": "tool", "content": given}]
            # Another spelling of the same characters is another text to a model that reads bytes.
            return [{"role": "tool", "content": [{"type": "spelling", "digest": digest(given), "text": given}]}]
        return [{"role": "tool", "content": [{"type": "tokens", "tokens": given}]}]


class Vector(msgspec.Struct, frozen=True, omit_defaults=True):
    """One vector as it came: packed as float32 in base64, packed by us as float64, a list, or not looked into."""

    packed: str | None = None
    width: str = "f32"
    numbers: list[Any] | None = None
    as_it_came: Any = None

    @classmethod
    def of(cls, given: object, *, as_it_comes: bool = False) -> Vector:
        """Read what the API gave.

        Raises:
            NotUnderstood: It is no vector.
        """
        if as_it_comes and given and isinstance(given, str | list | dict):
            return cls(as_it_came=given)
        if isinstance(given, str):
            _unpack(given, "f")
            return cls(packed=given)
        if not isinstance(given, list) or not given or any(type(number) not in {int, float} for number in given):
            raise NotUnderstood("an embedding that is no vector")
        if all(type(number) is float for number in given):
            # A third of the size, and the same numbers.
            return cls(packed=base64.b64encode(struct.pack(f"<{len(given)}d", *given)).decode(), width="f64")
        return cls(numbers=given)

    def given(self, *, packs: bool) -> Any:
        """Return it as it is asked for, packed or as a list."""
        if self.as_it_came is not None:
            return self.as_it_came
        if packs and self.packed is not None and self.width == "f32":
            return self.packed
        if self.numbers is not None:
            numbers = self.numbers
        else:
            numbers = _unpack(self.packed or "", "f" if self.width == "f32" else "d")
        return base64.b64encode(struct.pack(f"<{len(numbers)}f", *numbers)).decode() if packs else numbers


class Embeddings:
    """The embeddings API."""

    name = "embeddings"
    suffix = "/embeddings"
    home = "https://api.openai.com/v1"

    def read(self, body: Mapping[str, Any]) -> Wanted:
        """Read a request.

        Raises:
            BadRequest: The provider would not take it either.
        """
        form = body.get("encoding_format")
        given = body.get("input")
        as_it_comes = any(body.get(name) is not None for name in _TYPES)
        return Wanted(
            inputs=_inputs(given) if "input" in body else [],
            model=check_text(body, "model"),
            params=as_params(body, ("model", "input") if as_it_comes else ("model", "input", "encoding_format"))
            | {"api": self.name},
            packs=form == "base64",
            as_it_comes=as_it_comes,
            bypass=_why_not(body, form),
        )

    def sent(self, body: Mapping[str, Any], inputs: Sequence[Input]) -> bytes:
        """Return the body that asks for some of the inputs."""
        return encode({**body, "input": list(inputs)})

    def vectors(self, body: Mapping[str, Any], count: int, *, as_it_comes: bool = False) -> list[Vector]:
        """Return the vectors of an answer in the order of the inputs.

        Raises:
            NotUnderstood: They are not as many, or no vectors.
        """
        found: dict[int, Vector] = {}
        for item in objects(body.get("data"), "data"):
            index = item.get("index")
            if not isinstance(index, int) or index in found:
                raise NotUnderstood("an embedding without its number")
            found[index] = Vector.of(item.get("embedding"), as_it_comes=as_it_comes)
        if sorted(found) != list(range(count)):
            raise NotUnderstood(f"{len(found)} embeddings for {count} inputs")
        return [found[index] for index in range(count)]

    def metadata(self, vector: Vector, model: str | None) -> dict[str, Any]:
        """Return the metadata of an entry that holds a vector."""
        return kept(self.name, {"model": model, **msgspec.to_builtins(vector)})

    def stored(self, response: CachedResponse) -> tuple[Vector, str | None] | None:
        """Return the vector of an entry, and the model that the provider named; None when it holds none."""
        body = stored_body(response, self.name)
        if body is None:
            return None
        try:
            return msgspec.convert(body, Vector), body.get("model")
        except msgspec.ValidationError:
            return None

    def answer(
        self, vectors: Sequence[Vector], *, packs: bool, model: str | None, usage: object, is_hit: bool
    ) -> dict[str, Any]:
        """Return the body of an answer."""
        data = [
            {"object": "embedding", "index": at, "embedding": vector.given(packs=packs)}
            for at, vector in enumerate(vectors)
        ]
        body = {"object": "list", "data": data, "model": model, "usage": usage}
        return {**body, "cache_hit": True} if is_hit else body

    def error(self, message: str, *, status: int, param: str | None, code: str | None) -> dict[str, Any]:
        """Return the body of an error."""
        return openai_error(message, status=status, param=param, code=code)


def _why_not(body: Mapping[str, Any], form: object) -> str | None:
    if not (form is None or isinstance(form, str)) or form not in _FORMATS:
        return "a format that is not known here"
    if "input" not in body and "messages" in body:
        return "a conversation is embedded"
    if "input" not in body:
        raise missing("input")
    given = body["input"]
    if isinstance(given, list) and len(given) > _MOST_INPUTS and not _is_tokens(given):
        return f"more than {_MOST_INPUTS} inputs"
    return None


def _inputs(given: object) -> list[Input]:
    if isinstance(given, str):
        return [given]
    if not isinstance(given, list):
        raise wrong_type("input", "a string or an array", given)
    if not given:
        raise BadRequest("Invalid 'input': empty array.", param="input", code="empty_array")
    if _is_tokens(given):
        return [given]
    if all(isinstance(item, str) for item in given) or all(_is_tokens(item) for item in given):
        return given
    if any(isinstance(item, dict) for item in given):
        raise InvalidInput("inputs that are not texts alone")  # some providers embed pictures
    raise wrong_type("input", "strings, or arrays of tokens, of one kind", given)


def _is_tokens(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(type(item) is int for item in value)


def _unpack(packed: str, kind: str) -> list[float]:
    try:
        data = base64.b64decode(packed, validate=True)
        size = struct.calcsize(f"<{kind}")
        if not data or len(data) % size:
            raise NotUnderstood("a packed vector of no whole number of floats")
        return list(struct.unpack(f"<{len(data) // size}{kind}", data))
    except (binascii.Error, ValueError) as exc:
        raise NotUnderstood("a packed vector that is no base64") from exc
