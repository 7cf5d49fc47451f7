"""Which headers of a request say who asks, which may change the answer, and which do neither."""

from __future__ import annotations

import re
from collections.abc import Collection

from cache_management.cache.requests import IGNORED_HEADERS
from cache_management.gateway.calls import OURS, Headers

_CREDENTIALS = re.compile(
    r"cookie|authorization|(?:^|[-_])(?:key|token|secret|password|passwd|session|signature|auth)(?:[-_](?:id|user))?$"
    r"|^x-(?:auth|amz)-|^x-forwarded-(?:user|email|client-cert)|^x-goog-iap-"
)
_IGNORED = IGNORED_HEADERS | {
    *("accept-charset", "accept-language", "cache-control", "content-encoding", "content-language", "content-md5"),
    *("date", "dnt", "expect", "forwarded", "from", "host", "http-referer", "if-match", "if-modified-since"),
    *("if-none-match", "keep-alive", "max-forwards", "origin", "pragma", "priority", "range", "referer", "save-data"),
    *("te", "trailer", "transfer-encoding", "upgrade", "upgrade-insecure-requests", "via", "warning", "x-title"),
    *("b3", "baggage", "cdn-loop", "correlation-id", "newrelic", "sentry-trace", "uber-trace-id", "true-client-ip"),
    *("x-client-ip", "x-client-name", "x-client-version", "x-correlation-id", "x-http-client", "x-real-ip"),
    "x-idempotency-key",
    *("x-requested-with", "x-retry-count", "x-scheme", "x-session-affinity", "x-trace-id", "x-cloud-trace-context"),
}
_IGNORED_BEGINNINGS = (
    *OURS,
    *("access-control-", "cf-connecting", "cf-ipcountry", "cf-ray", "cf-visitor", "cf-worker", "fly-", "sec-"),
    *("x-amzn-trace", "x-b3-", "x-cache", "x-datadog-", "x-envoy-", "x-forwarded-", "x-goog-api-client"),
    *("x-ms-client-request", "x-newrelic-", "x-ot-span", "x-stainless-", "x-vercel-"),
)
"""Of what carries a request on its way, traces it, or names the program that asks."""


def is_credential(name: str) -> bool:
    """Tell whether a header, in lower case, says who asks: a key, a token, a cookie."""
    return not name.endswith("idempotency-key") and _CREDENTIALS.search(name) is not None


def telling_headers(headers: Headers, ignored: Collection[str] = ()) -> dict[str, str]:
    """Return the headers that may change an answer: all that are not known to change none, by their names."""
    found: dict[str, str] = {}
    for given, value in headers:
        name = given.lower()
        if (
            name in _IGNORED
            or name in ignored
            or name.startswith(_IGNORED_BEGINNINGS)
            or is_credential(name)
            or not value
        ):
            continue
        found[name] = f"{found[name]}, {value}" if name in found else value
    return found
