"""YAML as it stands in the file: plain data, and the line of every key, so that errors can point at it.

Only the safe subset is read: no tags, no anchors (they hide where a number comes from and let a small file grow
without bound), no duplicate keys, and nothing larger than a scenario could need.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from hispec_sim.errors import InputError

Key = tuple[str | int, ...]

_MAX_BYTES = 1_000_000
_MAX_DEPTH = 20
_REFERENCE = re.compile(r"\$([A-Za-z_][A-Za-z0-9_]*)\Z")
_EMBEDDED = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
_PLAIN_TAGS = {
    f"tag:yaml.org,2002:{kind}" for kind in ("map", "seq", "str", "int", "float", "bool", "null", "timestamp")
}


@dataclass(slots=True)
class Source:
    """A parsed file: its data and where each key stands. `below` is the file that it was laid over, if any."""

    path: Path
    data: dict[str, Any]
    lines: dict[Key, int] = field(default_factory=dict)
    overrides: dict[Key, str] = field(default_factory=dict)
    below: Source | None = None

    def where(self, key: Key) -> str:
        """`file, line n, at a.b.c`, for the longest part of `key` that stands in the file."""
        name = ".".join(map(str, key)) or "the top level"
        for end in range(len(key), -1, -1):
            if key[:end] in self.overrides:
                return f"{self.path} with --set {self.overrides[key[:end]]}, at {name}"
            for source in (self, self.below):
                if source is not None and key[:end] in source.lines:
                    return f"{source.path}, line {source.lines[key[:end]]}, at {name}"
        return f"{self.path}, at {name}"

    def fail(self, key: Key, message: str) -> InputError:
        """The error for something wrong at `key`."""
        return InputError(f"{self.where(key)}: {message}")


def read_source(path: Path) -> Source:
    """Parse a YAML file whose top level is a mapping. Raises InputError for everything that is not one."""
    try:
        size = path.stat().st_size
        if size > _MAX_BYTES:
            raise InputError(f"{path} has {size:,} bytes; a scenario has at most {_MAX_BYTES:,}")
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise InputError(f"there is no file {path}{_neighbours(path)}") from None
    except IsADirectoryError:
        raise InputError(f"{path} is a folder; name a scenario file in it") from None
    except UnicodeDecodeError:
        raise InputError(f"{path} is not a text file in UTF-8") from None
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from None
    try:
        _check_events(path, text)
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f", line {mark.line + 1}" if mark else ""
        raise InputError(f"{path}{line}: not valid YAML: {error.problem or error.context}") from None
    except yaml.YAMLError as error:
        raise InputError(f"{path}: not valid YAML: {' '.join(str(error).split())[:200]}") from None
    if root is None:
        raise InputError(f"{path} is empty; see scenarios/quick.yaml for a small scenario")
    source = Source(path, {})
    data = _construct(source, root, ())
    if not isinstance(data, dict):
        raise InputError(f"{path}: a scenario is a mapping of keys to values, not {describe(data)}")
    source.data = data
    return source


def _check_events(path: Path, text: str) -> None:
    """Refuse what could grow without bound before any of it is built."""
    depth = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        if isinstance(event, yaml.AliasEvent):
            raise InputError(f"{path}: *{event.anchor} is an alias; use $name from `parameters` instead")
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > _MAX_DEPTH:
            raise InputError(f"{path}: nested deeper than {_MAX_DEPTH} levels")


def _construct(source: Source, node: yaml.Node, key: Key) -> Any:
    source.lines[key] = node.start_mark.line + 1
    if node.tag not in _PLAIN_TAGS:
        raise source.fail(key, f"the tag {node.tag.rsplit(':', 1)[-1]} is not a plain value; write the value itself")
    if isinstance(node, yaml.MappingNode):
        mapping: dict[str, Any] = {}
        for key_node, value_node in node.value:
            name = key_node.value
            if not isinstance(key_node, yaml.ScalarNode):
                raise source.fail(key, "a key must be a word, not a list or a mapping")
            if name in mapping:
                raise source.fail((*key, name), f"the key {name!r} stands here twice; keep one")
            mapping[name] = None
            mapping[name] = _construct(source, value_node, (*key, name))
            source.lines[(*key, name)] = key_node.start_mark.line + 1
        return mapping
    if isinstance(node, yaml.SequenceNode):
        return [_construct(source, item, (*key, index)) for index, item in enumerate(node.value)]
    try:
        return yaml.SafeLoader("").construct_object(node)
    except (yaml.YAMLError, ValueError):
        raise source.fail(key, f"{describe(node.value)} is not a plain value; put it in quotes if it is text") from None


def apply_overrides(source: Source, assignments: Iterable[str]) -> None:
    """Apply `key=value` assignments: dotted keys, list items by number or by their `name`, values as YAML."""
    for assignment in assignments:
        dotted, equals, text = assignment.partition("=")
        if not equals or not dotted.strip():
            raise InputError(f"--set {assignment}: write it as key=value, for example workload.concurrency=8")
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError:
            raise InputError(f"--set {assignment}: {text!r} is not a valid value") from None
        try:
            key = find(source, dotted.strip())
        except InputError as error:
            raise InputError(f"--set {assignment}: {error}") from None
        put(source.data, key, value)
        source.overrides[key] = assignment


def put(data: Any, key: Key, value: Any) -> None:
    """Set what stands at `key`."""
    at(data, key[:-1])[key[-1]] = value


def at(data: Any, key: Key) -> Any:
    """What stands at `key`."""
    for part in key:
        data = data[part]
    return data


def find(source: Source, dotted: str) -> Key:
    """The key that `a.b.c` stands for; items of lists go by number or by their `name`, and a last key may be new.

    Raises InputError when there is no such place.
    """
    place: Any = source.data
    key: Key = ()
    rest = dotted
    while rest:
        step, rest_behind = _step(place, rest)
        if step is None:
            word, dot, _ = rest.partition(".")
            if dot or not isinstance(place, dict):
                raise InputError(f"there is no {word!r} here{did_you_mean(word, _keys(place))}")
            step, rest_behind = rest, ""
        key, rest = (*key, step), rest_behind
        place = place.get(step) if isinstance(place, dict) else place[int(step)]
    return key


def _step(place: Any, dotted: str) -> tuple[str | int | None, str]:
    """The first step of a dotted path, and what is left of it; names may hold dots themselves (llama-3.1-70b)."""
    choices: dict[str, str | int] = {}
    if isinstance(place, dict):
        choices = {name: name for name in place}
    elif isinstance(place, list):
        choices = {str(index): index for index in range(len(place))}
        choices |= {str(item["name"]): i for i, item in enumerate(place) if isinstance(item, dict) and "name" in item}
    fitting = [name for name in choices if dotted == name or dotted.startswith(f"{name}.")]
    if not fitting:
        return None, dotted
    name = max(fitting, key=len)
    return choices[name], dotted[len(name) + 1 :]


def _keys(place: Any) -> list[str]:
    if isinstance(place, dict):
        return list(place)
    if isinstance(place, list):
        return [str(item.get("name", i)) if isinstance(item, dict) else str(i) for i, item in enumerate(place)]
    return []


def substitute(source: Source, values: Mapping[str, Any], used: dict[Key, str]) -> dict[str, Any]:
    """The data with every `$name` outside `parameters` replaced by its value; fills `used` with where each stood.

    Within a longer text, such as a path, write `${name}`.
    """

    def value(name: str, item: str, key: Key) -> Any:
        if name not in values:
            raise source.fail(key, f"{item} is not among the parameters{did_you_mean(name, values)}")
        used[key] = name
        return values[name]

    def walk(item: Any, key: Key) -> Any:
        if isinstance(item, dict):
            return {name: walk(inner, (*key, name)) for name, inner in item.items()}
        if isinstance(item, list):
            return [walk(inner, (*key, index)) for index, inner in enumerate(item)]
        if isinstance(item, str) and "$" in item:
            if item.startswith("$") and not item.startswith("${"):
                match = _REFERENCE.match(item)
                return value(match[1] if match else item[1:], item, key)
            return _EMBEDDED.sub(lambda match: str(value(match[1], item, key)), item)
        return item

    return {name: data if name == "parameters" else walk(data, (name,)) for name, data in source.data.items()}


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`; did you mean X?`, or what there is to choose from."""
    names = [str(name) for name in known]
    close = difflib.get_close_matches(word, names, n=1)
    if close:
        return f"; did you mean {close[0]!r}?"
    return f"; known here: {', '.join(names)}" if names else ""


def describe(value: Any) -> str:
    """A value as an error message shows it: short, and never a wall of text."""
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list):
        return f"a list of {len(value)}"
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if value is None:
        return "nothing"
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _neighbours(path: Path) -> str:
    folder = path.parent
    if not folder.is_dir():
        return f": there is no folder {folder}"
    return did_you_mean(path.name, sorted(other.name for other in folder.glob("*.yaml")))
