"""The configuration file as a text: read with the line of each key, and changed in one place only.

A library that writes YAML anew keeps comments, but lays out lists, long lines and comments its own way. So a
value is replaced where it stands, and what comes out is read again: it must say what was meant and nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from cache_management.cache.errors import ConfigurationError

_LIMIT_BYTES = 1_000_000
_INDENT = 2

Key = tuple[str, ...]


class Written(NamedTuple):
    """What a file says, and the line of each key in it, counted from 1."""

    values: dict[str, Any]
    lines: dict[Key, int]


class _PlainLoader(yaml.SafeLoader):
    """Plain YAML: no tags, no aliases (a few lines of them can stand for gigabytes), no key twice."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            event = self.peek_event()  # type: ignore[no-untyped-call]
            raise yaml.MarkedYAMLError(problem="aliases (*name) are not allowed here", problem_mark=event.start_mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str):
                raise yaml.MarkedYAMLError(problem=f"the key {key!r} is not text", problem_mark=key_node.start_mark)
            if key in seen:
                raise yaml.MarkedYAMLError(problem=f"{key} is set twice", problem_mark=key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)


def read_text(path: Path) -> str:
    """Return the text of a configuration file, its line ends as they are.

    Raises:
        ConfigurationError: It cannot be read, is no UTF-8, or far too large.
    """
    try:
        with path.open("rb") as file:
            data = file.read(_LIMIT_BYTES + 1)
    except OSError as exc:
        raise ConfigurationError(f"{path} cannot be read: {exc.strerror}") from None
    if len(data) > _LIMIT_BYTES:
        raise ConfigurationError(f"{path} has more than {_LIMIT_BYTES:,} bytes, and that is no configuration")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as exc:
        raise ConfigurationError(f"{path} is not UTF-8 at byte {exc.start}") from None


def read_written(text: str, *, where: str) -> Written:
    """Read the text of a configuration file.

    Raises:
        ConfigurationError: It is no plain YAML; names the line.
    """
    try:
        root = yaml.compose(text, Loader=_PlainLoader)
        found = yaml.load(text, Loader=_PlainLoader)  # noqa: S506 - a subclass of SafeLoader
    except yaml.MarkedYAMLError as exc:
        line = f", line {exc.problem_mark.line + 1}" if exc.problem_mark else ""
        raise ConfigurationError(f"{where}{line}: {exc.problem}") from None
    except (yaml.YAMLError, RecursionError) as exc:
        raise ConfigurationError(f"{where} is no YAML: {str(exc)[:200]}") from None
    if found is None:
        return Written({}, {})
    if not isinstance(found, dict):
        raise ConfigurationError(f"{where} holds no settings: lines like `backend: redis` are expected")
    return Written(found, _lines_of(root))


def parse_value(text: str) -> Any:
    """Read a value as it would be read in a file, such as a number or a list; what is no YAML is text."""
    try:
        return yaml.load(text, Loader=_PlainLoader)  # noqa: S506 - a subclass of SafeLoader
    except (yaml.YAMLError, RecursionError):
        return text


def with_value(text: str, key: Key, value: Any, *, where: str) -> str:
    """Return the text with a key set to a value, and every other character as it was.

    Raises:
        ConfigurationError: The text is laid out in a way that this cannot change.
    """
    before = read_written(text, where=where).values
    return _checked(_set(text, key, value), _with(before, key, value), key, where)


def without_key(text: str, key: Key, *, where: str) -> str:
    """Return the text without a key, and every other character as it was.

    Raises:
        ConfigurationError: The text is laid out in a way that this cannot change.
    """
    before = read_written(text, where=where).values
    if not _holds(before, key):
        return text
    while len(key) > 1 and len(_at(before, key[:-1])) == 1:
        key = key[:-1]  # a group with nothing in it is an error
    return _checked(_cut(text, key), _without(before, key), key, where)


def _checked(text: str, meant: dict[str, Any], key: Key, where: str) -> str:
    try:
        is_right = read_written(text, where=where).values == meant
    except ConfigurationError:
        is_right = False
    if not is_right:
        raise ConfigurationError(f"{where} is laid out in a way that only you can change: set {'.'.join(key)} by hand")
    return text


# Changing the text. A node's marks say where it begins and ends.


def _set(text: str, key: Key, value: Any) -> str:
    newline = "\r\n" if "\r\n" in text else "\n"
    node = yaml.compose(text, Loader=_PlainLoader)
    if not isinstance(node, yaml.MappingNode):  # nothing is set yet
        gap = newline if text and not text.endswith("\n") else ""
        return text + gap + _block(key, value, 0, newline) + newline
    for depth, name in enumerate(key):
        rest = key[depth:]
        found = next(((k, v) for k, v in node.value if k.value == name), None)
        if found is None:
            return _inserted(text, node, rest, value, newline)
        if depth == len(key) - 1:
            return _replaced(text, *found, value)
        if not isinstance(found[1], yaml.MappingNode):  # a group of which nothing is set
            start, end = found[1].start_mark.index, found[1].end_mark.index
            if parse_value(text[start:end]) is None:  # a null that somebody wrote
                text = text[:start].rstrip(" ") + text[end:]
            at = _end_of_line(text, found[0].end_mark.index)
            below = _block(rest[1:], value, found[0].start_mark.column + _INDENT, newline)
            return text[:at] + newline + below + text[at:]
        node = found[1]
    raise AssertionError(key)


def _replaced(text: str, key: yaml.Node, old: yaml.Node, value: Any) -> str:
    style = old.style if isinstance(old, yaml.ScalarNode) and old.style in {"'", '"'} else None
    new = _flow(value, style)
    start, end = old.start_mark.index, _end(old)
    if start == end:  # nothing stood behind the colon
        return text[:start] + " " + new + text[start:]
    if _is_block(old):
        colon = text.index(":", key.end_mark.index) + 1
        rest_of_line = text[colon:start].splitlines()[0].rstrip()  # a comment on the list
        return f"{text[:colon]} {new}{rest_of_line}{text[end:]}"
    old_text = text[start:end]
    return text[:start] + new + old_text[len(old_text.rstrip()) :] + text[end:]


def _inserted(text: str, parent: yaml.MappingNode, key: Key, value: Any, newline: str) -> str:
    if parent.flow_style:
        pair = _nested_flow(key, value)
        if not parent.value:
            at = parent.end_mark.index - 1
            return text[:at] + pair + text[at:]
        at = _end(parent.value[-1][1])
        return text[:at] + ", " + pair + text[at:]
    at = _end_of_line(text, max(_end(parent) - 1, 0))
    return text[:at] + newline + _block(key, value, parent.value[0][0].start_mark.column, newline) + text[at:]


def _cut(text: str, key: Key) -> str:
    node: Any = yaml.compose(text, Loader=_PlainLoader)
    for name in key[:-1]:
        node = next(v for k, v in node.value if k.value == name)
    pairs = node.value
    place = next(place for place, (k, _) in enumerate(pairs) if k.value == key[-1])
    first, last = pairs[place]
    if node.flow_style:
        start, end = first.start_mark.index, _end(last)
        if place + 1 < len(pairs):
            end = pairs[place + 1][0].start_mark.index
        elif place:
            start = _end(pairs[place - 1][1])
        return text[:start] + text[end:]
    start = text.rfind("\n", 0, first.start_mark.index) + 1
    end = _end_of_line(text, max(_end(last) - 1, first.end_mark.index))
    return text[:start] + text[end:].removeprefix("\r").removeprefix("\n")


def _end(node: yaml.Node) -> int:
    """Return where a node ends; the mark of a list or group below its key lies behind the comments that follow."""
    if not _is_block(node):
        return node.end_mark.index
    children = [child for pair in node.value for child in pair] if isinstance(node, yaml.MappingNode) else node.value
    return max(_end(child) for child in children)


def _is_block(node: yaml.Node) -> bool:
    return isinstance(node, yaml.CollectionNode) and not node.flow_style


def _end_of_line(text: str, at: int) -> int:
    found = text.find("\n", at)
    if found < 0:
        return len(text)
    return found - 1 if text[found - 1] == "\r" else found


def _block(key: Key, value: Any, indent: int, newline: str) -> str:
    lines = [f"{' ' * (indent + _INDENT * depth)}{name}:" for depth, name in enumerate(key)]
    return newline.join(lines) + " " + _flow(value)


def _nested_flow(key: Key, value: Any) -> str:
    inner = _flow(value)
    for name in reversed(key[1:]):
        inner = f"{{{name}: {inner}}}"
    return f"{key[0]}: {inner}"


def _flow(value: Any, style: str | None = None) -> str:
    # In a list, so that it is quoted as within braces, too.
    style = style if isinstance(value, str) else None
    text = yaml.safe_dump(
        [value], default_flow_style=True, default_style=style, width=10**9, allow_unicode=True, sort_keys=False
    )
    return str(text).strip()[1:-1]


def _lines_of(node: yaml.Node | None, above: Key = ()) -> dict[Key, int]:
    found: dict[Key, int] = {}
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            found[*above, key.value] = key.start_mark.line + 1
            found |= _lines_of(value, (*above, key.value))
    return found


# The same on what the text says.


def _at(values: Mapping[str, Any], key: Key) -> Any:
    found: Any = values
    for name in key:
        found = found[name]
    return found


def _holds(values: Any, key: Key) -> bool:
    return not key or (isinstance(values, dict) and key[0] in values and _holds(values[key[0]], key[1:]))


def _with(values: Any, key: Key, value: Any) -> Any:
    if not key:
        return value
    below = values if isinstance(values, dict) else {}
    return {**below, key[0]: _with(below.get(key[0]), key[1:], value)}


def _without(values: dict[str, Any], key: Key) -> dict[str, Any]:
    if len(key) == 1:
        return {name: value for name, value in values.items() if name != key[0]}
    return {**values, key[0]: _without(values[key[0]], key[1:])}
