"""The proxy's own OpenAPI document."""

from __future__ import annotations

from typing import Any

from cache_management import __version__
from cache_management.cache.requests import ROLES
from cache_management.serve.proxy import ROOT

_JSON = "application/json"
_ANY: dict[str, Any] = {"type": "object", "additionalProperties": True}


def document() -> dict[str, Any]:
    """Return the document. Requests are described as far as the proxy reads them; the provider says the rest."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Cache Management proxy",
            "version": __version__,
            "description": "Answers requests to language models from a cache where it can, and passes on the rest.",
        },
        "security": [{"bearer": []}, {"key": []}, {}],
        "paths": {
            f"{ROOT}/chat/completions": {"post": _cached("createChatCompletion", "Chat", stream=True)},
            f"{ROOT}/responses": {"post": _cached("createResponse", "Response", stream=True)},
            f"{ROOT}/embeddings": {"post": _cached("createEmbedding", "Embedding", stream=False)},
            f"{ROOT}/messages": {"post": _cached("createMessage", "Message", stream=True)},
            f"{ROOT}/models": {"get": _passed("listModels")},
            "/healthz": {"get": _simple("healthz", {"200": _body("Health", "It runs.")})},
            "/readyz": {
                "get": _simple(
                    "readyz",
                    {"200": _body("Health", "Send work."), "503": _body("Health", "Send none: it is being stopped.")},
                )
            },
            "/metrics": {"get": _simple("metrics", {"200": _text("In the text format of Prometheus.")})},
            "/openapi.json": {"get": _simple("openapi", {"200": _body("Any", "This document.")})},
        },
        "components": {
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "key": {"type": "apiKey", "in": "header", "name": "x-api-key"},
            },
            "schemas": _schemas(),
            "headers": _headers(),
        },
    }


def _schemas() -> dict[str, Any]:
    texts = {"type": ["string", "null"]}
    flag = {"type": ["boolean", "null"]}
    options = {"type": ["object", "null"], "properties": {"include_usage": flag}}
    controls = {
        "type": ["object", "null"],
        "description": "What is wished of the cache; it is not passed on.",
        "additionalProperties": False,
        "properties": {
            "ttl": {"type": "integer", "minimum": -1, "maximum": 3_000_000_000, "not": {"const": 0}},
            "s-maxage": {"type": "number", "minimum": 0, "maximum": 1e12},
            "no-cache": {"type": "boolean"},
            "no-store": {"type": "boolean"},
        },
    }
    shared = {"model": texts, "stream": flag, "cache": controls}
    content = {"anyOf": [{"type": "string"}, {"type": "array", "items": _ANY}]}
    turn = {
        "type": "object",
        "required": ["role", "content"],
        "properties": {"role": {"enum": sorted(ROLES)}, "content": content},
    }
    messages = {"type": "array", "minItems": 1, "items": turn}
    items = {"type": "array", "minItems": 1, "items": {"anyOf": [turn, _ANY]}}
    token_list = {"type": "array", "minItems": 1, "items": {"type": "integer", "minimum": 0, "maximum": 1_000_000}}
    return {
        "Any": _ANY,
        "Chat": {
            "type": "object",
            "required": ["messages"],
            "properties": {**shared, "messages": messages, "stream_options": options},
        },
        "Response": {
            "type": "object",
            "required": ["input"],
            "properties": {**shared, "input": {"anyOf": [{"type": "string"}, items]}, "stream_options": options},
        },
        "Embedding": {
            "type": "object",
            "required": ["input"],
            "properties": {
                "model": texts,
                "cache": controls,
                "encoding_format": {"enum": ["float", "base64"]},
                "input": {
                    "anyOf": [
                        {"type": "string"},
                        {"type": "array", "minItems": 1, "items": {"type": "string"}},
                        token_list,
                        {"type": "array", "minItems": 1, "items": token_list},
                    ]
                },
            },
        },
        "Message": {
            "type": "object",
            "required": ["messages"],
            "properties": {**shared, "messages": messages, "system": {"type": ["string", "array", "null"]}},
        },
        "Health": {
            "type": "object",
            "required": ["status"],
            "properties": {"status": {"enum": ["ok", "unavailable"]}, "parts": {"type": "array", "items": _ANY}},
        },
        "Error": {"type": "object", "required": ["error"], "properties": {"error": {}}},
    }


def _headers() -> dict[str, Any]:
    label = {"enum": ["hit-exact", "hit-semantic", "miss", "bypass"]}
    return {
        "x-cache": {"description": "Where the answer came from.", "schema": label},
        "x-cache-key": {
            "description": "A digest of the request: the key of its entry.",
            "schema": {"type": "string"},
        },
        "x-cache-hits": {
            "description": "Of embeddings: how many inputs of how many different ones were stored.",
            "schema": {"type": "string"},
        },
        "x-cache-similarity": {"description": "Cosine, 1 when exact.", "schema": {"type": "string"}},
        "age": {"description": "Seconds since the answer was stored.", "schema": {"type": "string"}},
    }


def _wishes() -> list[dict[str, Any]]:
    def of(name: str, description: str, schema: dict[str, Any]) -> dict[str, Any]:
        return {"name": name, "in": "header", "required": False, "description": description, "schema": schema}

    return [
        of(
            "Cache-Control",
            "no-cache, no-store or max-age=SECONDS.",
            {"type": "string", "pattern": r"^(no-cache|no-store|max-age=[0-9]{1,9})$"},
        ),
        of(
            "x-cache-ttl",
            "Seconds to keep the answer, -1 for ever.",
            {"anyOf": [{"const": -1}, {"type": "integer", "minimum": 1, "maximum": 3_000_000_000}]},
        ),
        of("x-cache-threshold", "Cosine similarity, -1 to 1.", {"type": "number", "minimum": -1, "maximum": 1}),
    ]


def _cached(name: str, schema: str, *, stream: bool) -> dict[str, Any]:
    shown = {each: {"$ref": f"#/components/headers/{each}"} for each in _headers()}
    content: dict[str, Any] = {_JSON: {"schema": {"$ref": "#/components/schemas/Any"}}}
    if stream:
        content["text/event-stream"] = {"schema": {"type": "string"}}
    return {
        "operationId": name,
        "parameters": _wishes(),
        "requestBody": {
            "required": True,
            "content": {_JSON: {"schema": {"$ref": f"#/components/schemas/{schema}"}}},
        },
        "responses": {
            "200": {"description": "The answer, stored or new.", "headers": shown, "content": content},
            "default": _body("Error", "An error, of the provider or in its words."),
            **_errors(),
        },
    }


def _passed(name: str) -> dict[str, Any]:
    return {
        "operationId": name,
        "responses": {
            "200": _body("Any", "As the provider says."),
            "default": _body("Error", "As the provider says."),
            **_errors(),
        },
    }


def _errors() -> dict[str, Any]:
    said = {
        "400": "The body or a header cannot be read.",
        "401": "The key is not known.",
        "403": "A namespace cannot be chosen here.",
        "408": "The body did not come in time.",
        "405": "The method is none that is known here.",
        "413": "The body is too large.",
        "415": "The body is compressed.",
        "429": "Too many requests are under way.",
        "502": "The provider cannot be reached, or broke off.",
        "503": "The proxy is being stopped.",
        "504": "The provider did not answer in time.",
    }
    return {status: _body("Error", text) for status, text in said.items()}


def _simple(name: str, responses: dict[str, Any]) -> dict[str, Any]:
    return {"operationId": name, "security": [{}], "responses": responses}


def _body(schema: str, description: str) -> dict[str, Any]:
    return {
        "description": description,
        "content": {_JSON: {"schema": {"$ref": f"#/components/schemas/{schema}"}}},
    }


def _text(description: str) -> dict[str, Any]:
    return {"description": description, "content": {"text/plain": {"schema": {"type": "string"}}}}
