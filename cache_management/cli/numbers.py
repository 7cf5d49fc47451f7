"""Numbers on the command line: "nan" is in no range, and out of none either, so it is refused by name."""

from __future__ import annotations

from math import isnan
from typing import Any

import click


class Number(click.FloatRange):
    """A number between bounds."""

    name = "float"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        found = super().convert(value, param, ctx)
        return self.fail(f"{value} is no number", param, ctx) if isnan(found) else found


class Seconds(Number):
    """How long to wait, or how old; 0 or more."""

    name = "seconds"

    def __init__(self) -> None:
        super().__init__(min=0)
