"""Logs of requests to models, as programs write them: one file for each shape. See docs/simulating.md.

A file is a JSON list or JSON Lines. Each row says its shape by itself. What cannot be replayed is left out, and said.
"""

from __future__ import annotations

from cache_management.cache.request_logs.fields import LoggedRequest
from cache_management.cache.request_logs.reading import SHAPES, Log, Shape, read_logs, rows

__all__ = ["SHAPES", "Log", "LoggedRequest", "Shape", "read_logs", "rows"]
