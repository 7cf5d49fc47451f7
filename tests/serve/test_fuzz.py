"""The proxy against requests made up from its own OpenAPI document, good ones and bad ones."""

from __future__ import annotations

from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from cache_management.serve.document import document
from tests.gateway.upstream import Act, LocalUpstream
from tests.serve.conftest import MakeProxy

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]
ANSWER = (
    b'{"id": "1", "object": "x", "choices": [{"index": 0, "message": {"content": "yes"}, "finish_reason": "stop"}]}'
)
DOCUMENT = document()
OPERATIONS = [(path, method) for path, found in DOCUMENT["paths"].items() for method in found]


def test_the_document_is_one() -> None:
    schemathesis.openapi.from_dict(DOCUMENT).validate()


@pytest.mark.parametrize(("path", "method"), OPERATIONS)
def test_whatever_is_sent_is_answered_as_the_document_says(
    path: str, method: str, make_proxy: MakeProxy, upstream: LocalUpstream
) -> None:
    upstream.act = lambda _: Act(raw=ANSWER)
    proxy = make_proxy()
    schema = schemathesis.openapi.from_dict(DOCUMENT)
    operation = schema[path][method.upper()]
    modes = [GenerationMode.POSITIVE]
    if method == "post":
        modes.append(GenerationMode.NEGATIVE)
    cases: Any = st.one_of([operation.as_strategy(generation_mode=mode) for mode in modes])

    @settings(
        max_examples=40 if method == "post" else 3,
        deadline=None,
        database=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )
    @given(case=cases)
    def ask(case: Any) -> None:
        response = case.call(base_url=proxy.root)
        case.validate_response(response, checks=CHECKS)

    ask()
