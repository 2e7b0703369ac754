"""What is wrong with a configuration, as sentences: from the errors that jsonschema finds."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, cast

from seqembed.errors import shorten

# What a user may call the number of GPUs, which is Snakemake's resource `gpu`.
GPU_NAMES = ("gpu", "gpus", "ngpu", "ngpus", "num_gpus", "nvidia_gpu", "nvidia_gpus", "cuda")
_PLAIN = re.compile(r"[\w.-]{1,60}", re.ASCII)


def explain(error: Any) -> list[str]:
    """Turn one error of jsonschema into sentences, by its type and never by its message."""
    path, value = list(error.absolute_path), error.instance
    if "propertyNames" in error.absolute_schema_path:
        return [_explain_name(path, value, error.schema)]
    if error.validator == "additionalProperties":
        known = error.schema["properties"]
        unknown = {key: inner for key, inner in value.items() if key not in known}
        return [_explain_unknown([*path, key], known, inner) for key, inner in unknown.items()]
    if error.validator == "required":
        missing = [key for key in error.validator_value if key not in value]
        return [_explain_missing([*path, key], error.schema["properties"][key]) for key in missing]
    place = _dotted(path) or "The configuration"
    return [f"{place} is {_found(value)}, but must be {_allowed(error.schema)}."]


def _explain_name(path: list[Any], name: object, schema: Mapping[str, Any]) -> str:
    if not isinstance(name, str):
        read = f"YAML reads a name as {_found(name)}, which is not text"
        return f"{_dotted(path)}: {read}; put the name in quotes."
    rule = f"becomes part of file names and must be {schema['title']}"
    return f"{_dotted(path)}: the name {shorten(repr(name))} {rule}."


def _explain_missing(path: list[Any], node: Mapping[str, Any]) -> str:
    example = f"{path[-1]}: {node['examples'][0]}"
    return f"{_dotted(path)} is missing; write for example `{example}`."


def _explain_unknown(path: list[Any], known: Mapping[str, Any], value: object) -> str:
    hint = _guess(str(path[-1]).lower(), known, value)
    message = f"{_dotted(path)} is not a key of the configuration.{hint}"
    return f"{message} Known here: {', '.join(known)}."


def _guess(key: str, known: Mapping[str, Any], value: object) -> str:
    """What the user meant by a key, if that is clear."""
    if "fasta" in known and key in GPU_NAMES:
        return " The number of GPUs is Snakemake's own: write --resources gpu=2."
    # `precision` at the top is a known key in the wrong place: look further down as well.
    inner = {path.rpartition(".")[2]: path for path in _key_paths(known)}
    close = difflib.get_close_matches(key, inner, n=1)
    return f" Did you mean {_placed(inner[close[0]], value)}?" if close else ""


def _placed(path: str, value: object) -> str:
    """A key's path, with what to write after --config if it is in a group and its value plain."""
    group, _, key = path.rpartition(".")
    if not group or "." in group or not _PLAIN.fullmatch(str(value)):
        return path
    return f"{path}, after --config '{group}={{{key}: {value}}}'"


def _key_paths(known: Mapping[str, Any]) -> Iterator[str]:
    for key, node in known.items():
        yield key
        yield from (f"{key}.{path}" for path in _key_paths(node.get("properties", {})))


def _dotted(path: Iterable[object]) -> str:
    keys = map(str, path)
    return ".".join(key if _PLAIN.fullmatch(key) else shorten(repr(key)) for key in keys)


def _allowed(schema: Mapping[str, Any]) -> str:
    """What a value of this schema may be: numbers and choices in words, else its title."""
    if "anyOf" in schema:
        return ", or ".join(_allowed(branch) for branch in schema["anyOf"])
    if "const" in schema:
        return str(schema["const"])
    if "enum" in schema:
        return f"{', '.join(schema['enum'][:-1])} or {schema['enum'][-1]}"
    if schema["type"] == "boolean":
        return "true or false"
    if schema["type"] == "integer":
        return f"a whole number from {schema['minimum']} to {schema['maximum']:,}"
    if schema["type"] == "number":
        return f"a number over {schema['exclusiveMinimum']}"
    return cast(str, schema["title"])


def _found(value: object) -> str:
    """The value that was given, in YAML's spelling and on one line."""
    if value is None or value == "":
        return "empty"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return shorten(f"the list {value}") if value else "an empty list"
    if isinstance(value, Mapping):
        keys = ", ".join(map(repr, value))
        return shorten(f"a group of keys ({keys})") if value else "an empty group"
    return shorten(repr(value) if isinstance(value, str) else str(value))
