"""Embedded servers: found, started, stopped."""

from __future__ import annotations

from cache_management.services.postgres import start_postgres
from cache_management.services.provider import ProgramNotFound, Server
from cache_management.services.redis import start_redis

__all__ = ["ProgramNotFound", "Server", "start_postgres", "start_redis"]
