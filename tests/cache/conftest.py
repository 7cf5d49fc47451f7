"""Property tests run on shared machines: how long an example takes says nothing."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("cache", deadline=None)
settings.load_profile("cache")
