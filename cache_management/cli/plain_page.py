"""A page that needs nothing else: its style, and tables. Plots in SVG are made by whoever has something to draw."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
:root {{ color-scheme: light dark; --ink: #1f2328; --paper: #ffffff; --soft: #656d76; --line: #d0d7de;
  --ours: #0969da; --other: #9a6700; }}
@media (prefers-color-scheme: dark) {{ :root {{ --ink: #e6edf3; --paper: #0d1117; --soft: #9198a1; --line: #30363d;
  --ours: #58a6ff; --other: #d29922; }} }}
body {{ font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); max-width: 1100px;
  margin: 2rem auto; padding: 0 1rem; }}
table {{ border-collapse: collapse; margin: 1rem 0; display: block; overflow-x: auto;
  font-variant-numeric: tabular-nums; }}
th, td {{ border-bottom: 1px solid var(--line); padding: .3rem .8rem; text-align: left; white-space: nowrap; }}
td.text {{ white-space: normal; }}
th {{ color: var(--soft); font-weight: 600; }}
figure {{ display: inline-block; margin: 1rem 1rem 1rem 0; max-width: 100%; }}
figcaption {{ color: var(--soft); }}
svg {{ max-width: 100%; height: auto; }}
svg text {{ fill: var(--soft); font-size: 12px; }}
.axis {{ stroke: var(--line); }} .ours {{ stroke: var(--ours); fill: none; stroke-width: 2.5; }}
.other {{ stroke: var(--other); fill: none; stroke-width: 2.5; stroke-dasharray: 6 4; }}
.bar {{ fill: var(--ours); }} .bar.other {{ fill: var(--other); stroke: none; }}
.band {{ fill: var(--ours); opacity: .15; stroke: none; }}
</style></head><body>
<h1>{title}</h1>
<p>{about}</p>
{body}
</body></html>
"""


def page(title: str, about: str, body: str) -> str:
    """Return the whole page; `body` is HTML, the others are text."""
    return _PAGE.format(title=escape(title), about=escape(about), body=body)


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return a table."""
    head = "".join(f'<th scope="col">{escape(column)}</th>' for column in columns)
    body = "".join("<tr>" + "".join(_cell(value) for value in row) + "</tr>" for row in rows)
    return f"<h3>{escape(title)}</h3><table><thead><tr>{head}</tr></thead><tbody>{body or _NONE}</tbody></table>"


_NONE = "<tr><td>none</td></tr>"


def _cell(value: object) -> str:
    text = str(value)
    return f'<td class="text">{escape(text)}</td>' if len(text) > 50 else f"<td>{escape(text)}</td>"
