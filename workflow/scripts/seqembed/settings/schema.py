"""Fill in the configuration's defaults, check the result against the schema, explain errors."""

from __future__ import annotations

import datetime
import difflib
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import yaml
from jsonschema import Draft4Validator, Draft202012Validator
from jsonschema.validators import extend

from seqembed.errors import ConfigError, list_all, shorten
from seqembed.models.known import KNOWN
from seqembed.models.names import explain_model, model_name
from seqembed.settings.request import Request
from seqembed.settings.short_form import as_datasets, refuse_misread

_SCHEMA = Path(__file__).parents[3] / "schemas" / "config.schema.yaml"
_NUMBER = re.compile(r"-?[0-9]{1,15}(\.[0-9]{1,15})?", re.ASCII)
# YAML reads these words as true and false.
_YES_OR_NO = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
# Names that users write in place of `gpu`, the resource of Snakemake that counts GPUs.
GPU_NAMES = ("gpu", "gpus", "ngpu", "ngpus", "num_gpus", "nvidia_gpu", "nvidia_gpus", "cuda")
_PLAIN = re.compile(r"[\w.-]{1,60}", re.ASCII)

NO_DATASETS = """\
`datasets` is empty, so there is nothing to embed. Give the sequences and the model on the command
line, with your own names and paths:

  --config fasta=my.faa model=esm2_t33_650M_UR50D

or write in config/config.yaml, in place of `datasets: {}`:

datasets:
  mine:
    fasta: my.faa
    model: esm2_t33_650M_UR50D
"""


@dataclass(frozen=True, kw_only=True)
class Exports:
    """How a result is exported. annotations: the path of a table, as the user wrote it, or None."""

    dtype: Literal["float32", "float16"]
    annotations: str | None


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """The settings of one dataset; its own keys replace those at the top of the configuration.

    fasta: paths or globs, as the user wrote them. model: a known name or a key of `models`. shards:
    how many shards the dataset is split into. reuse: paths or globs of earlier results, as the user
    wrote them.
    """

    name: str
    fasta: tuple[str, ...]
    model: str
    shards: int
    request: Request
    invalid_residues: Literal["error", "unk", "skip"]
    reuse: tuple[str, ...]
    exports: Exports


def load_schema() -> dict[str, Any]:
    """Return the JSON Schema of the configuration, which holds the default of every setting."""
    return cast(dict[str, Any], yaml.safe_load(_SCHEMA.read_text(encoding="utf-8")))


def complete(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the configuration with every default filled in, as new dicts.

    A key without a value counts as absent. The short form, with `fasta` and `model` at the top,
    becomes `datasets` with this dataset alone. Raises ConfigError with a line for each problem.
    """
    schema = load_schema()
    filled = _fill(config, schema)
    if isinstance(filled, Mapping):
        refuse_misread(filled)
    errors = _Validator(schema).iter_errors(filled)
    if problems := {line for error in errors for line in _explain(error)}:
        # jsonschema visits datasets and models in no fixed order.
        raise ConfigError("\n".join(sorted(problems)))
    return as_datasets(filled)


def get_datasets(config: Mapping[str, Any]) -> dict[str, Dataset]:
    """Return the datasets by name; config: what complete() returned.

    Raises ConfigError, which names each dataset whose model is neither known nor in `models`.
    """
    datasets, models = config["datasets"], config["models"]
    problems = [
        explain_model(f"datasets.{name}.model", entry["model"], models)
        for name, entry in datasets.items()
        if (model := model_name(entry["model"], models)) not in models and model not in KNOWN
    ]
    if problems:
        raise ConfigError("\n".join(problems))
    return {name: _dataset(name, entry, config) for name, entry in datasets.items()}


def _dataset(name: str, entry: Mapping[str, Any], config: Mapping[str, Any]) -> Dataset:
    embedding = {**config["embedding"], **entry.get("embedding", {})}
    return Dataset(
        name=name,
        fasta=_as_tuple(entry["fasta"]),
        model=model_name(entry["model"], config["models"]),
        shards=entry.get("shards", config["shards"]),
        invalid_residues=embedding.pop("invalid_residues"),
        request=Request(**embedding),
        reuse=_as_tuple(entry.get("reuse", config["reuse"])),
        exports=Exports(**{**config["exports"], **entry.get("exports", {})}),
    )


def _as_tuple(paths: str | list[str]) -> tuple[str, ...]:
    return (paths,) if isinstance(paths, str) else tuple(paths)


def _fill(value: Any, schema: Mapping[str, Any], *, defaults: bool = True) -> Any:
    """Return a copy of `value`, part of a configuration; defaults: whether to fill absent keys."""
    if isinstance(value, list):
        return list(value)
    if isinstance(value, str):
        return _retyped(value, schema)
    if schema.get("type") != "object" or not isinstance(value, Mapping | None):
        return value
    known, others = schema.get("properties", {}), schema.get("additionalProperties") or {}
    group = {key: node["default"] for key, node in known.items() if defaults and "default" in node}
    given = (value or {}).items()
    group |= {key: inner for key, inner in given if inner is not None or key not in known}
    # Keys that a dataset lacks get no defaults: they are taken from the top of the configuration.
    return {
        key: _fill(inner, known.get(key, others), defaults=defaults and key in known)
        for key, inner in group.items()
    }


def _retyped(text: str, schema: Mapping[str, Any]) -> Any:
    """Return the text as a number or bool, if it is one and the schema allows it; else as it is."""
    # After `--config 'execution={token_budget: 9000}'` Snakemake gives 9000 as a text.
    types = {branch.get("type") for branch in schema.get("anyOf", [schema])}
    if types & {"integer", "number"} and _NUMBER.fullmatch(text):
        return float(text) if "." in text else int(text)
    if "boolean" in types and text.lower() in _YES_OR_NO:
        return _YES_OR_NO[text.lower()]
    return text


def _explain(error: Any) -> list[str]:
    path, value = list(error.absolute_path), error.instance
    if "propertyNames" in error.absolute_schema_path:
        problem = f"YAML reads a name as {_found(value)}, which is not text; put the name in quotes"
        if isinstance(value, str):
            rule = f"becomes part of file names and must be {error.schema['title']}"
            problem = f"the name {shorten(repr(value))} {rule}"
        return [f"{_dotted(path)}: {problem}."]
    known = error.schema.get("properties", {})
    if error.validator == "additionalProperties":
        return [
            f"{_dotted([*path, key])} is not a key of the configuration."
            f"{_guess(str(key).lower(), known, inner)} Known keys here: {', '.join(known)}."
            for key, inner in value.items()
            if key not in known
        ]
    if error.validator == "required":
        return [
            f"{_dotted([*path, key])} is missing; write for example "
            f"`{key}: {known[key]['examples'][0]}`."
            for key in error.validator_value
            if key not in value
        ]
    place = _dotted(path) or "The configuration"
    return [f"{place} is {_found(value)}, but must be {_allowed(error.schema)}."]


def _guess(key: str, known: Mapping[str, Any], value: object) -> str:
    """Return a sentence with the key that the user may have meant; empty if none is close."""
    if "fasta" in known and key in GPU_NAMES:
        return " Snakemake has an option for the number of GPUs: write --resources gpu=2."
    # Keys within groups count too: a user may write `precision` outside of `embedding`.
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
    """Return in words what a schema allows: for a text, list or group, the schema's own title."""
    if "anyOf" in schema:
        return ", or ".join(_allowed(branch) for branch in schema["anyOf"])
    if "const" in schema:
        return "null" if schema["const"] is None else str(schema["const"])
    if "enum" in schema:
        return list_all(schema["enum"], "or")
    if schema["type"] == "boolean":
        return "true or false"
    if schema["type"] == "integer":
        return f"a whole number from {schema['minimum']} to {schema['maximum']:,}"
    if schema["type"] == "number":
        return f"a number over {schema['exclusiveMinimum']}"
    return cast(str, schema["title"])


def _found(value: object) -> str:
    """Return a value in words for a message, on one line: `an empty list`, or a text in quotes."""
    if value is None or value == "":
        return "empty"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, datetime.date):
        return f"the date {value} (quotes make it a text)"
    if isinstance(value, list):
        return shorten(f"the list {value}") if value else "an empty list"
    if isinstance(value, Mapping):
        keys = ", ".join(map(repr, value))
        return shorten(f"a group of keys ({keys})") if value else "an empty group"
    return shorten(repr(value) if isinstance(value, str) else str(value))


def _is_number(_checker: object, value: object) -> bool:
    return type(value) is int or (type(value) is float and math.isfinite(value))


# Newer drafts accept 2.0 as an integer; infinities and NaN, which YAML allows, are not accepted.
_TYPES = Draft4Validator.TYPE_CHECKER.redefine("number", _is_number)
_Validator = extend(Draft202012Validator, type_checker=_TYPES)
