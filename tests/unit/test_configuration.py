"""The configuration: defaults, overrides, and what is said about mistakes."""

from __future__ import annotations

import copy
import re
from collections import OrderedDict
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from seqembed.errors import ConfigError
from seqembed.models.known import KNOWN
from seqembed.settings.request import Request
from seqembed.settings.schema import (
    NO_DATASETS,
    Dataset,
    Exports,
    complete,
    get_datasets,
    load_schema,
)
from seqembed.settings.yaml_file import check_yaml

ROOT = Path(__file__).parents[2]
DEFAULTS = {
    "datasets": {},
    "models": {},
    "shards": 2,
    "device": "auto",
    "embedding": {
        "layer": "last",
        "pooling": "mean",
        "per_residue": False,
        "precision": "auto",
        "storage": "float32",
        "long_sequences": "auto",
        "max_length": "auto",
        "invalid_residues": "error",
    },
    "ids": "header",
    "gaps": "error",
    "suspicious": "error",
    "execution": {
        "token_budget": "auto",
        "checkpoint": {"sequences": 10000, "seconds": 300},
        "on_quarantine": "warn",
    },
    "reuse": [],
    "exports": {"dtype": "float32", "annotations": None},
}
EMBEDDING = load_schema()["properties"]["embedding"]["properties"]
GOOD = "{fasta: a.faa, model: m}"
SHORT = ("fasta", "model", "name")


def _complete(text: str) -> dict[str, Any]:
    return complete(yaml.safe_load(text))


def _request(**changes: Any) -> Request:
    """The defaults, but for the changes."""
    fields = {k: v for k, v in DEFAULTS["embedding"].items() if k != "invalid_residues"}
    return Request(**fields | changes)


def _asked(dataset: Dataset, key: str) -> Any:
    """What a dataset's key of `embedding` is."""
    return getattr(dataset if key == "invalid_residues" else dataset.request, key)


def _refusal(text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        get_datasets(_complete(text))
    return str(caught.value)


# Defaults


@pytest.mark.parametrize(
    "text", ["", "{}", "datasets:", "\n".join(f"{key}:" for key in DEFAULTS), "execution: {}"]
)
def test_what_is_absent_or_empty_becomes_the_default(text):
    assert _complete(text) == DEFAULTS
    assert get_datasets(_complete(text)) == {}


def test_given_values_stay_beside_defaults():
    found = _complete("{shards: 3, execution: {checkpoint: {seconds: 0.5, sequences: }}}")
    execution = DEFAULTS["execution"] | {"checkpoint": {"sequences": 10000, "seconds": 0.5}}
    assert found == {**DEFAULTS, "shards": 3, "execution": execution}


def test_completes_into_new_plain_objects_and_leaves_the_argument_alone():
    datasets = OrderedDict(a={"fasta": ["x", "y"], "model": "m", "embedding": {"max_length": "7"}})
    config = OrderedDict(datasets=datasets, embedding=None, shards="3")
    before = copy.deepcopy(config)
    found = complete(config)
    found["datasets"]["a"]["fasta"].append("z")
    found["execution"]["checkpoint"]["sequences"] = 1
    assert config == before
    assert type(found["datasets"]) is dict
    assert complete({}) == DEFAULTS


@pytest.mark.parametrize(("length", "seconds"), [("'1022'", "'300'"), ("1022", "300.0")])
def test_numbers_may_be_text(length, seconds):
    text = f"embedding: {{max_length: {length}}}\n"
    found = _complete(text + f"execution: {{checkpoint: {{seconds: {seconds}}}}}")
    assert type(found["embedding"]["max_length"]) is int
    assert found["embedding"]["max_length"] == 1022
    assert found["execution"]["checkpoint"]["seconds"] == 300


# Datasets


def test_a_dataset_overrides_the_global_values_key_by_key():
    config = _complete("""
        shards: 4
        embedding: {precision: fp16, max_length: 900}
        models: {m: /data/m}
        reuse: old/*.h5
        datasets:
          plain: {fasta: a.faa, model: m}
          own:
            fasta: [b.faa, c/*.faa]
            model: m
            shards: 1
            embedding: {precision: fp32, long_sequences: truncate}
            reuse: [a.h5, b.h5]
            exports: {annotations: own.tsv}
          none: {fasta: c.faa, model: m, reuse: []}
        exports: {dtype: float16, annotations: all.csv}
    """)
    shared = {"model": "m", "invalid_residues": "error"}
    plain = _request(precision="fp16", long_sequences="auto", max_length=900)
    own = _request(precision="fp32", long_sequences="truncate", max_length=900)
    plain_exports, own_exports = (
        Exports(dtype="float16", annotations=table) for table in ("all.csv", "own.tsv")
    )
    plain_keys = {"shards": 4, "request": plain, "exports": plain_exports, **shared}
    own_keys = {"shards": 1, "request": own, "exports": own_exports, **shared}
    own_keys["reuse"] = ("a.h5", "b.h5")
    assert get_datasets(config) == {
        "plain": Dataset(name="plain", fasta=("a.faa",), reuse=("old/*.h5",), **plain_keys),
        "own": Dataset(name="own", fasta=("b.faa", "c/*.faa"), **own_keys),
        "none": Dataset(name="none", fasta=("c.faa",), reuse=(), **plain_keys),
    }


@pytest.mark.parametrize(
    ("text", "value"),
    [
        *[(f"'{word}'", True) for word in ("true", "True", "yes", "Yes", "on")],
        *[(f"'{word}'", False) for word in ("false", "FALSE", "no", "off")],
        *[("true", True), ("yes", True)],
    ],
)
def test_yes_and_no_may_be_text(text, value):
    config = f"{{embedding: {{per_residue: {text}}}, datasets: {{a: {GOOD}}}, models: {{m: d}}}}"
    assert get_datasets(_complete(config))["a"].request.per_residue is value


def test_a_word_for_yes_stays_a_word_where_a_word_is_meant():
    config = _complete("{datasets: {'true': {fasta: 'true', model: 'true'}}, models: {'true': m}}")
    (dataset,) = get_datasets(config).values()
    assert (dataset.name, dataset.fasta, dataset.model) == ("true", ("true",), "true")


def test_types_of_a_dataset_agree_with_the_schema():
    hints = get_type_hints(Request) | get_type_hints(Dataset)
    for key in ("pooling", "precision", "storage", "long_sequences", "invalid_residues"):
        assert _choices(hints[key]) == EMBEDDING[key]["enum"]
    assert set(EMBEDDING) == {*get_type_hints(Request), "invalid_residues"}


def _choices(hint: Any) -> list[str]:
    """The words of a Literal, or of several that are one or the other."""
    return [word for part in get_args(hint) for word in (_choices(part) or [part])]


# Models


@pytest.mark.parametrize(
    ("model", "close"),
    [
        ("esm2_t33_650M", "esm2_t33_650M_UR50D"),
        ("esm2_t6_8m_UR50D", "esm2_t6_8M_UR50D"),
        ("DNABERT_S", "DNABERT-S"),
        ("my_esm2", "my_esm"),
    ],
)
def test_a_name_that_is_nearly_known_is_suggested(model, close):
    message = _refusal(f"{{datasets: {{a: {{fasta: x, model: {model}}}}}, models: {{my_esm: /d}}}}")
    assert f"datasets.a.model is '{model}'" in message
    assert f"Did you mean {close}" in message


def test_for_any_other_name_all_known_ones_are_listed():
    names = "{a: {fasta: x, model: unirep}, b: {fasta: x, model: /data/big m}}"
    message = _refusal(f"datasets: {names}")
    assert "Did you mean" not in message
    assert message.count(f"Known: {', '.join(KNOWN)}. ") == 2
    assert "models:\n  big_m: /data/big m" in message


@pytest.mark.parametrize("model", ["é", "/", "..", "-", " "])
def test_the_lines_to_write_for_a_model_can_be_followed(model):
    text = f"datasets: {{a: {{fasta: x, model: {model!r}}}}}"
    lines = _refusal(text).partition(":\n")[2]
    assert list(_complete(lines)["models"]) == ["my_model"]


# Mistakes; tests/faults has more of them, with their whole messages


MISTAKES = [
    ("embeding: {precision: fp16}", r"embeding is not a key .* Did you mean embedding\?"),
    ("precision: fp16", "embedding.precision, after --config 'embedding={precision: fp16}'"),
    ("1: 2", "1 is not a key of the configuration. Known keys here: datasets"),
    ("on_quarantine: warn", "Did you mean execution.on_quarantine"),
    ("execution: {on_quarantine: stop}", "execution.on_quarantine is 'stop', .* warn or fail"),
    ('"two\\nlines":', r"'two\\nlines' is not a key"),
    ("embedding: {poolling: 1}", "embedding.poolling is .* mean pooling.* Known keys here: layer"),
    ("embedding: {pooling: sum}", "embedding.pooling is 'sum', .* mean, cls or max"),
    ("embedding: {layer: first}", "embedding.layer is 'first', .* last, or a whole number from 0"),
    ("embedding: {layer: 2.0}", "embedding.layer is 2.0"),
    ("embedding: {per_residue: 1}", "embedding.per_residue is 1, but must be true or false"),
    ("embedding: {per_residue: ''}", "embedding.per_residue is empty"),
    ("embedding: {storage: fp16}", "embedding.storage is 'fp16', .* float32 or float16"),
    ("embedding: {invalid_residues: drop}", "residues is 'drop', .* error, unk or skip"),
    ("embedding: fp16", "embedding is 'fp16', but must be a group of keys"),
    ("embedding: {precision: true}", "embedding.precision is true"),
    ("embedding: {max_length: 0}", "embedding.max_length is 0, but must be auto, or a whole"),
    ("device: gpu", "device is 'gpu', but must be auto, cuda or cpu"),
    ("device: [cpu]", r"device is the list \['cpu'\]"),
    ("ids: file", "ids is 'file'"),
    ("gaps: drop", "gaps is 'drop'"),
    ("suspicious: warn", "suspicious is 'warn'"),
    ("shards: 0", "shards is 0, but must be a whole number from 1 to 10,000"),
    ("shards: '-1'", "shards is -1, but"),
    ("shards: true", "shards is true, but"),
    ("shards: '2.0'", "shards is 2.0, but"),
    ("shards: two", "shards is 'two', but"),
    ("shards: {}", "shards is an empty group, but"),
    ("shards: {a: 1}", r"shards is a group of keys \('a'\), but"),
    ("shards: []", "shards is an empty list, but"),
    ("execution: {token_budget: no}", "execution.token_budget is false, but must be auto, or"),
    ("execution: {checkpoint: {seconds: .inf}}", "checkpoint.seconds is inf"),
    ("execution: {checkpoint: {seconds: true}}", "checkpoint.seconds is true"),
    ("execution: {checkpoint: {sequence: 5}}", "checkpoint.sequence .* Did you mean sequences"),
    ("[1]", r"The configuration is the list \[1\], but must be a group of keys"),
    ("datasets: {mine: }", "(?s)mine.fasta is missing; .*mine.model is missing; write"),
    ("datasets: {mine: {fasta: [], model: m}}", "mine.fasta is an empty list, .* a path"),
    ("datasets: {mine: {fasta: '', model: m}}", "mine.fasta is empty"),
    ("datasets: {mine: {fasta: a, model: 5}}", "mine.model is 5, .* the name of a model"),
    ("datasets: {mine: {precision: fp16}}", "mine.precision .* Did you mean embedding.precision"),
    ("reuse: 5", "reuse is 5, but must be a path or a glob, such as .*, or a list of paths"),
    ("reuse: ['']", r"reuse is the list \[''\], .* a list of paths and globs, none of them empty"),
    ("reuse: ''", "reuse is empty, but must be a path or a glob"),
    ("reuse: {old: a.h5}", r"reuse is a group of keys \('old'\), but must be a path"),
    ("resue: a.h5", r"Did you mean reuse\?"),
    ("datasets: {a: {fasta: x, model: m, reuse: [1]}}", r"a.reuse is the list \[1\], but must be"),
    ("exports: {dtype: double}", "exports.dtype is 'double', but must be float32 or float16"),
    ("exports: {annotations: [a]}", "is the list .* the path of a table, such as .*, or null"),
    ("exports: {annotation: a.tsv}", r"exports.annotation .* Did you mean annotations\?"),
    (f"datasets: {{'': {GOOD}}}", "the name .* becomes part of file names"),
    (f"datasets: {{1: {GOOD}}}", "YAML reads a name as 1, .* name in quotes"),
    (f"datasets: {{on: {GOOD}}}", "YAML reads a name as true, .* name in quotes"),
    (f"datasets: {{null: {GOOD}}}", "YAML reads a name as empty, .* name in quotes"),
    ("models: {a: , b c: 3}", "(?s)models.'b c' is 3.*models.a is empty.*the name 'b c' becomes"),
]


@pytest.mark.parametrize(("text", "message"), MISTAKES)
def test_a_mistake_is_explained(text, message):
    assert re.search(message, _refusal(text))


def test_all_problems_are_listed_at_once_one_a_line():
    dataset = "{fasta: [], shards: 0, embedding: {max_length: x}}"
    lines = _refusal(
        f"{{shards: 0, device: gpu, datasets: {{a: {dataset}, 'b c': }}}}"
    ).splitlines()
    starts = ["datasets.'b c'.fasta", "datasets.'b c'.model", "datasets.a.embedding.max_length"]
    starts += ["datasets.a.fasta", "datasets.a.model", "datasets.a.shards", "datasets: the name"]
    starts += ["device is", "shards is"]
    assert [line[: len(start)] for line, start in zip(lines, starts, strict=True)] == starts


_inner_keys = [key for group in ("embedding", "execution") for key in DEFAULTS[group]]
_keys = st.sampled_from([*DEFAULTS, *_inner_keys, "sequences", "seconds", *SHORT, "mine", "a b"])
_words = st.sampled_from(["auto", "fp16", "error", "cpu", "header", "mine", "7", "2.5"])
_scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.dates() | _words
_scalars |= st.text(max_size=5) | st.binary(max_size=3)
_junk = st.recursive(
    _scalars,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(_keys | _scalars, inner, max_size=4)
        | st.dictionaries(_keys, inner, max_size=6)
    ),
    max_leaves=12,
)


@settings(deadline=None)
@given(_junk)
def test_junk_is_refused_or_completed(config):
    before = repr(config)
    try:
        completed = complete(config)
        assert complete(completed) == completed
        assert set(completed) == set(DEFAULTS)
        assert all(isinstance(entry, Dataset) for entry in get_datasets(completed).values())
    except ConfigError as error:
        assert str(error)
    assert repr(config) == before


def _allowed(node: dict[str, Any]) -> st.SearchStrategy[Any]:
    """What the schema allows for a key of `embedding`."""
    if "anyOf" in node:
        return st.one_of([_allowed(branch) for branch in node["anyOf"]])
    if "const" in node or "enum" in node:
        return st.sampled_from(node.get("enum") or [node["const"]])
    if node["type"] == "boolean":
        return st.booleans()
    return st.integers(node["minimum"], node["maximum"])


_embedding = st.fixed_dictionaries({}, optional={k: _allowed(v) for k, v in EMBEDDING.items()})
_names = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,8}", fullmatch=True)
_texts = st.text(min_size=1)
_exports = st.fixed_dictionaries(
    {}, optional={"dtype": st.sampled_from(["float32", "float16"]), "annotations": _texts}
)


@settings(deadline=None)
@given(st.data())
def test_what_is_allowed_is_never_refused(data):
    models = data.draw(st.dictionaries(_names, _texts, min_size=1, max_size=3))
    fasta, model = _texts | st.lists(_texts, min_size=1), st.sampled_from([*sorted(models), *KNOWN])
    entry = st.fixed_dictionaries(
        {"fasta": fasta, "model": model},
        optional={
            "shards": st.integers(1, 10_000),
            "embedding": _embedding,
            "reuse": _texts | st.lists(_texts),
            "exports": _exports,
        },
    )
    datasets = data.draw(st.dictionaries(_names, entry, max_size=3))
    shared, exports = data.draw(_embedding), data.draw(_exports)
    reuse = data.draw(st.lists(_texts))
    config = complete(
        {"models": models, "datasets": datasets, "embedding": shared, "reuse": reuse}
        | {"exports": exports}
    )
    assert complete(config) == config
    for name, dataset in get_datasets(config).items():
        assert dataset.model == datasets[name]["model"]
        found = datasets[name].get("reuse", reuse)
        assert dataset.reuse == ((found,) if isinstance(found, str) else tuple(found))
        settled = DEFAULTS["exports"] | exports | datasets[name].get("exports", {})
        assert dataset.exports == Exports(**settled)
        own = datasets[name].get("embedding", {})
        for key, default in DEFAULTS["embedding"].items():
            assert _asked(dataset, key) == own.get(key, shared.get(key, default))


# The schema, and what is written about it


def _properties(schema: dict[str, Any], prefix: str = "") -> dict[str, dict[str, Any]]:
    """Every property of the schema by its dotted path; below free names, NAME stands for them."""
    found = {}
    for key, node in schema.get("properties", {}).items():
        found[prefix + key] = node
        found.update(_properties(node, f"{prefix}{key}."))
    others = schema.get("additionalProperties")
    if isinstance(others, dict):
        found.update(_properties(others, f"{prefix}NAME."))
    return found


def _flat(config: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    found = {}
    for key, value in config.items():
        inner = _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {}
        found.update(inner or {prefix + key: value})
    return found


def test_the_schema_is_one_and_says_of_every_property_title_description_and_default():
    Draft202012Validator.check_schema(load_schema())
    for path, node in _properties(load_schema()).items():
        required = path in ("datasets.NAME.fasta", "datasets.NAME.model", *SHORT)
        assert node["title"] and node["description"]
        assert ("examples" if required else "default") in node, path


# A setting is a comment whose text is indented by an even number of blanks; prose begins with one.
SETTING = re.compile(r"^#((?:  )*[^\s#].*)$", re.MULTILINE)


CONFIG_YAML = (ROOT / "config/config.yaml").read_text()


def test_config_yaml_changes_no_default_and_shows_each():
    check_yaml(ROOT / "config/config.yaml")
    assert yaml.safe_load(CONFIG_YAML) == {"datasets": {}}
    assert yaml.safe_load(SETTING.sub(r"\1", CONFIG_YAML)) == complete({}) == DEFAULTS


def test_config_yaml_names_every_choice():
    for path, node in _properties(load_schema()).items():
        if "enum" in node and "NAME" not in path:
            line = f"{path.rpartition('.')[2]}: .*# {re.escape(' | '.join(node['enum']))}"
            assert re.search(f"^# *{line}", CONFIG_YAML, re.MULTILINE), path


def test_the_example_of_config_yaml_is_allowed():
    example = "\n".join(re.findall(r"^#     (.*)$", CONFIG_YAML, re.MULTILINE))
    assert list(get_datasets(_complete(example))) == ["viral_proteins"]


def test_the_readme_lists_every_key_with_its_default():
    text = (ROOT / "config/README.md").read_text()
    rows = re.findall(r"^\| `([\w.]+)` \| (.*?) \|", text, re.MULTILINE)
    own = {"fasta": "required", "model": "required"}
    own |= {key: f"as `{key}`" for key in ("shards", "embedding", "reuse", "exports")}
    words = {True: "true", False: "false", None: "null"}
    flat = {k: words[v] if isinstance(v, bool | None) else v for k, v in _flat(DEFAULTS).items()}
    expected = {path: f"`{value}`" for path, value in flat.items()} | dict.fromkeys(SHORT, "none")
    assert dict(rows) == expected | {f"datasets.NAME.{key}": cell for key, cell in own.items()}


def test_the_advice_for_an_empty_configuration_can_be_followed():
    options = re.search(r"--config (.*)", NO_DATASETS)[1].split()
    short = dict(option.split("=") for option in options)
    written = yaml.safe_load(NO_DATASETS[NO_DATASETS.index("\ndatasets:") :])
    assert written == {"datasets": {"mine": short}}
    assert list(get_datasets(complete(short))) == ["my"]
    assert list(get_datasets(complete(written))) == ["mine"]
