"""Policies as an application may bring them: good, odd and broken."""

from __future__ import annotations

from typing import Any

from cache_management.cache.eviction.base import Evictor
from cache_management.cache.records import Weight


class NewestFirst(Evictor):
    """A good one, unlike any of ours."""

    def __init__(self) -> None:
        self.keys: list[str] = []

    def on_insert(self, key: str, weight: Weight) -> None:
        self.on_remove(key)
        self.keys.append(key)

    def on_hit(self, key: str) -> None: ...

    def on_remove(self, key: str) -> None:
        if key in self.keys:
            self.keys.remove(key)

    def victim(self) -> str | None:
        return self.keys[-1] if self.keys else None


class Breaking(NewestFirst):
    """Fails in one of its calls, from the third on."""

    def __init__(self, where: str = "on_insert") -> None:
        super().__init__()
        self.where = where
        self.calls = 0

    def _call(self, name: str) -> None:
        if name == self.where:
            self.calls += 1
            if self.calls >= 3:
                raise ZeroDivisionError(f"broken {name}")

    def on_insert(self, key: str, weight: Weight) -> None:
        self._call("on_insert")
        super().on_insert(key, weight)

    def on_hit(self, key: str) -> None:
        self._call("on_hit")

    def on_remove(self, key: str) -> None:
        self._call("on_remove")
        super().on_remove(key)

    def victim(self) -> Any:
        self._call("victim")
        return super().victim()


class Naming(NewestFirst):
    """Names something as victim."""

    def __init__(self, named: object) -> None:
        super().__init__()
        self.named = named

    def victim(self) -> Any:
        return self.named


def unmakeable() -> Evictor:
    raise ZeroDivisionError("cannot be made")


prototype = NewestFirst()
a_number = 7
