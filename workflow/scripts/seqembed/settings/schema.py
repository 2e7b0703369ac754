"""The configuration: checked against the schema, and its defaults filled in."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import yaml
from jsonschema import Draft202012Validator
from jsonschema.validators import extend

from seqembed.errors import ConfigError
from seqembed.models.known import KNOWN
from seqembed.models.names import explain_model, model_name
from seqembed.settings.explain import explain
from seqembed.settings.request import Request
from seqembed.settings.short_form import as_datasets, refuse_misread

_SCHEMA = Path(__file__).parents[3] / "schemas" / "config.schema.yaml"
_NUMBER = re.compile(r"-?[0-9]{1,15}(\.[0-9]{1,15})?", re.ASCII)
# What YAML, too, takes for them.
_YES_OR_NO = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}

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
class Dataset:
    """One dataset with all that decides its rows, overrides applied.

    fasta: paths or globs, as the user wrote them. model: its name. request: what to compute.
    invalid_residues: what to do with a residue that the model does not know.
    """

    name: str
    fasta: tuple[str, ...]
    model: str
    shards: int
    request: Request
    invalid_residues: Literal["error", "unk", "skip"]


def load_schema() -> dict[str, Any]:
    """Read the JSON Schema of the configuration, the one home of its defaults."""
    return cast(dict[str, Any], yaml.safe_load(_SCHEMA.read_text(encoding="utf-8")))


def complete(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the configuration with every default filled in, as new plain dicts.

    A key that is left empty counts as absent, and the short form becomes the one dataset. Raises
    ConfigError with all problems, one a line.
    """
    schema = load_schema()
    given = _normalised({} if config is None else config, schema)
    refuse_misread(given)
    problems = [line for error in _Validator(schema).iter_errors(given) for line in explain(error)]
    if problems:
        # jsonschema visits free names in no fixed order, and names a missing key once per key.
        raise ConfigError("\n".join(sorted(set(problems))))
    return _filled(as_datasets(given), schema)


def get_datasets(config: Mapping[str, Any]) -> dict[str, Dataset]:
    """Return the datasets of a completed configuration by name, in its order.

    Raises ConfigError for every dataset whose model is neither known nor stands under `models`.
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
    fasta, embedding = entry["fasta"], {**config["embedding"], **entry.get("embedding", {})}
    return Dataset(
        name=name,
        fasta=(fasta,) if isinstance(fasta, str) else tuple(fasta),
        model=model_name(entry["model"], config["models"]),
        shards=entry.get("shards", config["shards"]),
        invalid_residues=embedding.pop("invalid_residues"),
        request=Request(**embedding),
    )


def _normalised(value: Any, schema: Mapping[str, Any]) -> Any:
    """Copy what the schema knows into plain dicts and lists, without empty keys."""
    if schema.get("type") == "object" and isinstance(value, Mapping):
        return dict(_normalised_items(value, schema))
    if isinstance(value, list):
        return list(value)
    return _retyped(value, schema) if isinstance(value, str) else value


def _retyped(text: str, schema: Mapping[str, Any]) -> Any:
    """The number, or the yes or no, that a text stands for.

    Snakemake makes texts of the inner values of `--config 'execution={token_budget: 9000}'`.
    """
    types = {branch.get("type") for branch in schema.get("anyOf", [schema])}
    if types & {"integer", "number"} and _NUMBER.fullmatch(text):
        return float(text) if "." in text else int(text)
    if "boolean" in types and text.lower() in _YES_OR_NO:
        return _YES_OR_NO[text.lower()]
    return text


def _normalised_items(
    group: Mapping[Any, Any], schema: Mapping[str, Any]
) -> Iterator[tuple[Any, Any]]:
    known, others = schema.get("properties", {}), schema.get("additionalProperties") or {}
    for key, value in group.items():
        if value is None and key in known:
            continue
        node = known.get(key, others)
        if value is None and node.get("type") == "object":
            value = {}
        yield key, _normalised(value, node)


def _filled(group: Mapping[str, Any], schema: Mapping[str, Any]) -> dict[str, Any]:
    """Fill in the defaults of `properties`; datasets and models stay as they are."""
    result = {}
    for key, node in schema["properties"].items():
        if key not in group and "default" not in node:
            continue
        value = group[key] if key in group else node["default"]
        result[key] = _filled(value, node) if "properties" in node else value
    return result


def _is_integer(_checker: object, value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(checker: object, value: object) -> bool:
    finite = isinstance(value, float) and math.isfinite(value)
    return finite or _is_integer(checker, value)


# JSON Schema takes 2.0 for an integer; YAML knows .inf and .nan.
_Validator = extend(
    Draft202012Validator,
    type_checker=Draft202012Validator.TYPE_CHECKER.redefine("integer", _is_integer).redefine(
        "number", _is_number
    ),
)
