"""A file of the configuration: YAML with keys, each of them once, checked before it is used.

Snakemake and PyYAML end with a traceback for some of what is refused here, and of two equal keys
they take the last in silence.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from seqembed.errors import ConfigError, shorten

MOST_VALUES = 1_000_000
# With this key Snakemake takes a configuration for a template, and runs what it says.
_TEMPLATE_KEY = "__use_yte__"
_NO_KEYS = "holds no keys; write `datasets:` and what belongs below it, or remove the file"
_MERGE = "tag:yaml.org,2002:merge"


def check_yaml(path: Path) -> None:
    """Raise ConfigError, with the line where there is one, for a file that cannot be read rightly.

    Among these are keys that stand twice, of which the first would be lost.
    """
    try:
        _check(path, yaml.SafeLoader(_read(path)))
    except yaml.MarkedYAMLError as error:
        place = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        message = f"{path}{place}: this is no YAML ({error.problem}). {_advice(error)}"
        raise ConfigError(message) from error
    except yaml.YAMLError as error:
        code = getattr(error, "character", 0)
        message = f"{path}: YAML forbids the character U+{code:04X} in it; remove it."
        raise ConfigError(message) from error
    except RecursionError as error:
        raise ConfigError(f"{path}: its values are nested too deeply; write plain ones.") from error


def check_option(key: str, value: str) -> None:
    """Raise ConfigError for braces after --config that cannot be read, or hold a key twice.

    Of the first Snakemake makes a text, and of two equal keys it takes the last.
    """
    if not value.startswith("{"):
        return
    loader: Any = yaml.BaseLoader(value)
    try:
        root = loader.get_single_node()
    except (yaml.YAMLError, RecursionError) as error:
        message = f"{key}={value} is not complete; is a brace, a comma or a quote missing?"
        raise ConfigError(f"After --config, {message}") from error
    for node in _nodes(Path(f"{key}={value}"), root, frozenset(), set()):
        _check_keys(Path(f"{key}={value}"), node)


def refuse_endless(config: Any) -> None:
    """Raise ConfigError for more than MOST_VALUES of them.

    Through aliases, a file of a few lines may hold billions, which nothing here would end to read.
    """
    waiting, count = [config], 0
    while waiting:
        value, count = waiting.pop(), count + 1
        if count > MOST_VALUES:
            message = f"The configuration holds over {MOST_VALUES:,} values; write fewer."
            raise ConfigError(message)
        if isinstance(value, Mapping):
            waiting += value.values()
        elif isinstance(value, list):
            waiting += value


def _advice(error: yaml.MarkedYAMLError) -> str:
    # `fasta: *.faa` without quotes asks for what was named by `&.faa`.
    if error.context == "while scanning an alias" or "undefined alias" in (error.problem or ""):
        return "Put a pattern that begins with `*` in quotes."
    return (
        "Is a line indented differently from its neighbours, or the line that it belongs under "
        "still a comment?"
    )


def _read(path: Path) -> str:
    try:
        # A pipe would be empty when Snakemake reads it.
        if not path.is_file():
            raise ConfigError(f"{path} is no file; put a file of that name in its place.")
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8 text; save it as UTF-8.") from error
    except OSError as error:
        message = f"{path} cannot be read ({error.strerror}); check its permissions."
        raise ConfigError(message) from error


def _check(path: Path, loader: Any) -> None:
    root = loader.get_single_node()
    if not isinstance(root, yaml.MappingNode):
        raise ConfigError(f"{path}: {_NO_KEYS}.")
    for node in _nodes(path, root, frozenset(), set()):
        _check_value(path, loader, node)
        _check_keys(path, node)
    content = loader.construct_document(root)
    refuse_endless(content)
    if _TEMPLATE_KEY in content:
        message = "would let Snakemake run what the file says; write plain settings in its place"
        raise ConfigError(f"{path}: {_TEMPLATE_KEY} {message}.")


def _nodes(path: Path, node: Any, above: frozenset[int], seen: set[int]) -> Iterator[Any]:
    """Yield the node and each below it once; raise ConfigError where one holds itself."""
    if id(node) in above:
        message = "an alias stands within what it stands for; write its values out."
        raise ConfigError(f"{path}, line {node.start_mark.line + 1}: {message}")
    if id(node) in seen:
        return
    seen.add(id(node))
    yield node
    for child in _children(node):
        yield from _nodes(path, child, above | {id(node)}, seen)


def _children(node: Any) -> Iterator[Any]:
    if isinstance(node, yaml.SequenceNode):
        yield from node.value
    if isinstance(node, yaml.MappingNode):
        yield from (child for pair in node.value for child in pair)


def _check_value(path: Path, loader: Any, node: Any) -> None:
    """Raise ConfigError for a text that looks like a date or a number and is none."""
    if not isinstance(node, yaml.ScalarNode) or node.tag == _MERGE:
        return
    try:
        loader.construct_object(node)
    except (ValueError, AttributeError) as error:
        message = f"YAML cannot read the value {shorten(node.value)!r}; put it in quotes."
        raise ConfigError(f"{path}, line {node.start_mark.line + 1}: {message}") from error


def _check_keys(path: Path, node: Any) -> None:
    """Raise ConfigError for a key that a group of keys has twice."""
    if not isinstance(node, yaml.MappingNode):
        return
    lines: dict[tuple[str, str], int] = {}
    for key, _ in node.value:
        if not isinstance(key, yaml.ScalarNode) or key.tag == _MERGE:
            continue
        line, name = key.start_mark.line + 1, (key.tag, key.value)
        if name in lines:
            message = f"the key {key.value!r} already stands in line {lines[name]}; keep one."
            raise ConfigError(f"{path}, line {line}: {message}")
        lines[name] = line
