"""Turn the errors that jsonschema finds in a configuration into sentences."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, cast

from seqembed.errors import shorten

# Words that users write for the number of GPUs, which is Snakemake's resource `gpu`.
GPU_NAMES = ("gpu", "gpus", "ngpu", "ngpus", "num_gpus", "nvidia_gpu", "nvidia_gpus", "cuda")
_PLAIN = re.compile(r"[\w.-]{1,60}", re.ASCII)


def explain(error: Any) -> list[str]:
    """Return sentences for one error of jsonschema, made from the error's type."""
    path, value = list(error.absolute_path), error.instance
    if "propertyNames" in error.absolute_schema_path:
        return [f"{_dotted(path)}: {_explain_name(value, error.schema)}"]
    known = error.schema.get("properties", {})
    if error.validator == "additionalProperties":
        unknown = {key: inner for key, inner in value.items() if key not in known}
        return [_explain_unknown([*path, key], known, inner) for key, inner in unknown.items()]
    if error.validator == "required":
        missing = {key: known[key]["examples"][0] for key in known if key in error.validator_value}
        return [
            f"{_dotted([*path, key])} is missing; write for example `{key}: {example}`."
            for key, example in missing.items()
            if key not in value
        ]
    place = _dotted(path) or "The configuration"
    return [f"{place} is {_found(value)}, but must be {_allowed(error.schema)}."]


def _explain_name(name: object, schema: Mapping[str, Any]) -> str:
    if not isinstance(name, str):
        return f"YAML reads a name as {_found(name)}, which is not text; put the name in quotes."
    rule = f"becomes part of file names and must be {schema['title']}"
    return f"the name {shorten(repr(name))} {rule}."


def _explain_unknown(path: list[Any], known: Mapping[str, Any], value: object) -> str:
    hint = _guess(str(path[-1]).lower(), known, value)
    message = f"{_dotted(path)} is not a key of the configuration.{hint}"
    return f"{message} Known here: {', '.join(known)}."


def _guess(key: str, known: Mapping[str, Any], value: object) -> str:
    """Return a hint at the key that the user meant; empty if none is alike."""
    if "fasta" in known and key in GPU_NAMES:
        return " The number of GPUs is Snakemake's own: write --resources gpu=2."
    # `precision` at the top is a known key in the wrong place: look further down as well.
    inner = {path.rpartition(".")[2]: path for path in _key_paths(known)}
    if not (close := difflib.get_close_matches(key, inner, n=1)):
        return ""
    path = inner[close[0]]
    group, _, key = path.rpartition(".")
    if not group or "." in group or not _PLAIN.fullmatch(str(value)):
        return f" Did you mean {path}?"
    return f" Did you mean {path}, after --config '{group}={{{key}: {value}}}'?"


def _key_paths(known: Mapping[str, Any]) -> Iterator[str]:
    for key, node in known.items():
        yield key
        yield from (f"{key}.{path}" for path in _key_paths(node.get("properties", {})))


def _dotted(path: Iterable[object]) -> str:
    keys = map(str, path)
    return ".".join(key if _PLAIN.fullmatch(key) else shorten(repr(key)) for key in keys)


def _allowed(schema: Mapping[str, Any]) -> str:
    """Return in words what a value may be; of a text or a group, the schema's title."""
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
    """Return the value that was given, in YAML's spelling and on one line."""
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
