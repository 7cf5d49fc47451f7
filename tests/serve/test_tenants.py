from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from cache_management.cache.errors import ConfigurationError
from cache_management.cache.identity import is_namespace
from cache_management.serve.tenants import Tenants, key_of, secret_of

BEARER = (("Authorization", "Bearer sk-1"),)


def tenants(secret: bytes = b"s" * 32, **given: bool) -> Tenants:
    table = {hashlib.sha256(b"sk-known").hexdigest().upper(): "team"}
    return Tenants(table, secret=secret, anonymous="default", **given)


def test_a_namespace_tells_nothing_of_the_key_and_is_one_s_own() -> None:
    found = tenants().namespace(BEARER)

    assert found is not None
    assert is_namespace(found)
    assert hashlib.sha256(b"sk-1").hexdigest()[:12] not in found
    assert found == tenants().namespace((("authorization", "bearer  sk-1"),))
    assert found != tenants(b"t" * 32).namespace(BEARER)
    assert found != tenants().namespace((("authorization", "Bearer sk-2"),))


def test_a_table_names_tenants_and_may_be_all_there_are() -> None:
    known = (("x-api-key", "sk-known"),)

    assert tenants().namespace(known) == "team"
    assert tenants(only_known=True).namespace(known) == "team"
    assert tenants(only_known=True).namespace(BEARER) is None
    assert tenants(only_known=True).namespace(()) is None
    assert tenants().namespace(()) == "default"


def test_all_keys_of_a_request_count() -> None:
    assert key_of((("x-api-key", "a"), *BEARER)) == "sk-1\0a"
    assert key_of((("authorization", "Basic dTpw"),)) == "Basic dTpw"
    assert key_of((("authorization", ""), ("x-other", "b"))) == ""


def test_the_secret_is_made_once_for_its_owner_alone(tmp_path: Path) -> None:
    folder = tmp_path / "data"

    assert secret_of(folder) == secret_of(folder)
    assert len(secret_of(folder)) == 32
    assert (folder / "serve.key").stat().st_mode & 0o777 == 0o600
    assert [file.name for file in folder.iterdir()] == ["serve.key"]


def test_a_secret_that_is_damaged_is_said(tmp_path: Path) -> None:
    (tmp_path / "serve.key").write_bytes(b"short")

    with pytest.raises(ConfigurationError, match="too short"):
        secret_of(tmp_path)
