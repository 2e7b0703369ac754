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
from seqembed.models.names import get_model_source
from seqembed.settings.request import Request
from seqembed.settings.schema import (
    Dataset,
    complete,
    describe_empty,
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
}
GOOD = "{fasta: a.faa, model: m}"
SHORT = ("fasta", "model", "name")
TOP = (
    "Known here: datasets, fasta, model, name, models, shards, device, embedding, ids, gaps, "
    "suspicious, execution."
)
FASTA = "a path or a glob, such as data/*.faa, or a list of at least one of them"
FOLDER = "the path of a Hugging Face folder or of a fair-esm .pt file"
KNOWN_NAMES = (
    "Known: esm2_t6_8M_UR50D, esm2_t12_35M_UR50D, esm2_t30_150M_UR50D, esm2_t33_650M_UR50D, "
    "esm2_t36_3B_UR50D, esm2_t48_15B_UR50D, DNABERT-S, DNABERT-2."
)
EMBEDDING_KEYS = (
    "layer, pooling, per_residue, precision, storage, long_sequences, max_length, invalid_residues"
)
NAME = "1 to 200 letters, digits, `.`, `_` and `-` only, beginning with a letter or a digit"


def _complete(text: str) -> dict[str, Any]:
    return complete(yaml.safe_load(text))


def _request(**changes: Any) -> Request:
    """The defaults, but for the changes."""
    fields = {k: v for k, v in DEFAULTS["embedding"].items() if k != "invalid_residues"}
    return Request(**fields | changes)


def _asked(dataset: Dataset, key: str) -> Any:
    """What a dataset's key of `embedding` is."""
    return getattr(dataset if key == "invalid_residues" else dataset.request, key)


def _message(text: str) -> str:
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


def test_completing_twice_changes_nothing():
    once = _complete("{datasets: {a: {fasta: x, model: m, shards: 1}}, models: {m: d}}")
    assert complete(once) == once


@pytest.mark.parametrize(
    "text",
    [
        "{embedding: {max_length: '1022'}, execution: {checkpoint: {seconds: '300'}}}",
        "{embedding: {max_length: 1022}, execution: {checkpoint: {seconds: 300.0}}}",
    ],
)
def test_numbers_may_be_text_as_snakemake_gives_them_within_a_command_line_group(text):
    found = _complete(text)
    assert type(found["embedding"]["max_length"]) is int
    assert found["embedding"]["max_length"] == 1022
    assert found["execution"]["checkpoint"]["seconds"] == 300


# Datasets


def test_a_dataset_overrides_the_global_values_key_by_key():
    config = _complete("""
        shards: 4
        embedding: {precision: fp16, max_length: 900}
        models: {m: /data/m}
        datasets:
          plain: {fasta: a.faa, model: m}
          own:
            fasta: [b.faa, c/*.faa]
            model: m
            shards: 1
            embedding: {precision: fp32, long_sequences: truncate}
    """)
    shared = {"model": "m", "model_source": "/data/m", "invalid_residues": "error"}
    plain = _request(precision="fp16", long_sequences="auto", max_length=900)
    own = _request(precision="fp32", long_sequences="truncate", max_length=900)
    assert get_datasets(config) == {
        "plain": Dataset(name="plain", fasta=("a.faa",), shards=4, request=plain, **shared),
        "own": Dataset(name="own", fasta=("b.faa", "c/*.faa"), shards=1, request=own, **shared),
    }


# Every key of `embedding`, and what it may be beside its default.
CHOICES: list[tuple[str, Any]] = [
    ("layer", 0),
    ("layer", 12),
    ("pooling", "cls"),
    ("pooling", "max"),
    ("per_residue", True),
    *(("precision", precision) for precision in ("fp32", "fp16", "bf16")),
    ("storage", "float16"),
    *(("long_sequences", policy) for policy in ("window", "truncate", "full", "error")),
    ("max_length", 1),
    ("invalid_residues", "unk"),
    ("invalid_residues", "skip"),
]


@pytest.mark.parametrize(("key", "value"), CHOICES)
def test_every_choice_counts_for_all_datasets_and_for_one_alone(key, value):
    default = DEFAULTS["embedding"][key]

    def found(shared: dict[str, Any], own: dict[str, Any]) -> list[Any]:
        entry = {"fasta": "x", "model": "m"}
        datasets = {"plain": entry, "own": entry | {"embedding": own}}
        config = complete({"models": {"m": "d"}, "datasets": datasets, "embedding": shared})
        return [_asked(dataset, key) for dataset in get_datasets(config).values()]

    assert found({}, {}) == [default, default]
    assert found({key: value}, {}) == [value, value]
    assert found({}, {key: value}) == [default, value]
    assert found({key: value}, {key: default}) == [value, default]
    # As Snakemake hands on what stands within braces after --config.
    assert found({}, {key: str(value)}) == [default, value]


def test_every_key_of_embedding_has_a_choice_that_is_tried():
    embedding = load_schema()["properties"]["embedding"]["properties"]
    for key, node in embedding.items():
        tried = [value for name, value in CHOICES if name == key]
        assert tried and set(node.get("enum", [])) <= {*tried, node["default"]}
    assert set(embedding) == set(DEFAULTS["embedding"]) == {name for name, _ in CHOICES}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        *[(f"'{word}'", True) for word in ("true", "True", "yes", "Yes", "on")],
        *[(f"'{word}'", False) for word in ("false", "FALSE", "no", "off")],
        *[("true", True), ("yes", True)],
    ],
)
def test_yes_and_no_may_be_text_as_snakemake_gives_them(text, value):
    config = f"{{embedding: {{per_residue: {text}}}, datasets: {{a: {GOOD}}}, models: {{m: d}}}}"
    assert get_datasets(_complete(config))["a"].request.per_residue is value


def test_a_word_for_yes_stays_a_word_where_a_word_is_meant():
    config = _complete("{datasets: {'true': {fasta: 'true', model: 'true'}}, models: {'true': m}}")
    (dataset,) = get_datasets(config).values()
    assert (dataset.name, dataset.fasta, dataset.model) == ("true", ("true",), "true")


def test_a_dataset_types_what_the_schema_allows():
    embedding = load_schema()["properties"]["embedding"]["properties"]
    hints = get_type_hints(Request) | get_type_hints(Dataset)
    for key in ("pooling", "precision", "storage", "long_sequences", "invalid_residues"):
        assert _choices(hints[key]) == embedding[key]["enum"]
    assert set(embedding) == {*get_type_hints(Request), "invalid_residues"}


def _choices(hint: Any) -> list[str]:
    """The words of a Literal, or of several that are one or the other."""
    return [word for part in get_args(hint) for word in (_choices(part) or [part])]


# Models known by name


@pytest.mark.parametrize("name", KNOWN)
def test_a_known_name_is_a_model_without_models(name):
    config = _complete(f"datasets: {{a: {{fasta: x, model: {name}}}}}")
    dataset = get_datasets(config)["a"]
    assert (dataset.model, dataset.model_source) == (name, name)
    assert get_model_source(name, config["models"]) == name


def test_a_key_of_models_wins_over_a_known_name():
    config = _complete("""
        models: {DNABERT-S: /data/mine}
        datasets:
          mine: {fasta: x, model: DNABERT-S}
          theirs: {fasta: x, model: esm2_t6_8M_UR50D}
    """)
    found = {name: dataset.model_source for name, dataset in get_datasets(config).items()}
    assert found == {"mine": "/data/mine", "theirs": "esm2_t6_8M_UR50D"}
    assert get_model_source("DNABERT-S", config["models"]) == "/data/mine"


def test_a_folder_that_is_called_as_a_known_model_stays_a_folder():
    models = {"DNABERT-S": "DNABERT-S", "mine": "DNABERT-2", "other": "my_folder"}
    found = {name: get_model_source(name, models) for name in models}
    assert found == {"DNABERT-S": "./DNABERT-S", "mine": "./DNABERT-2", "other": "my_folder"}


@pytest.mark.parametrize(
    ("model", "close"),
    [
        ("esm2_t33_650M", "esm2_t33_650M_UR50D"),
        ("esm2_t6_8m_UR50D", "esm2_t6_8M_UR50D"),
        ("DNABERT_S", "DNABERT-S"),
    ],
)
def test_a_name_that_is_nearly_known_is_told(model, close):
    message = _message(f"datasets: {{a: {{fasta: x, model: {model}}}}}")
    told = message.partition("Did you mean ")[2].partition("?")[0]
    assert told.split(" or ")[0] == close


def test_a_name_near_no_other_is_told_all_known_ones_and_no_guess():
    message = _message("datasets: {a: {fasta: x, model: unirep}}")
    assert "Did you mean" not in message
    assert f"Known: {', '.join(KNOWN)}. " in message


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (
            "my_esm2",
            "datasets.a.model is 'my_esm2', which is no known name and does not stand under "
            f"`models`. Did you mean my_esm? {KNOWN_NAMES} Of another model give the folder or .pt "
            "file under `models:`; after --config, model=my_esm2 "
            "'models={my_esm2: /path/to/its_folder_or_file.pt}'; in a file:\n"
            "models:\n  my_esm2: /path/to/its_folder_or_file.pt",
        ),
        (
            "/data/big model",
            "datasets.a.model is '/data/big model', which is no known name and does not stand "
            f"under `models`. {KNOWN_NAMES} Of another model give the folder or .pt file under "
            "`models:` and write `model: big_model` in the dataset:\n"
            "models:\n  big_model: /data/big model",
        ),
    ],
)
def test_a_model_without_a_source(model, message):
    text = f"{{datasets: {{a: {{fasta: x, model: {model}}}}}, models: {{my_esm: /d}}}}"
    assert _message(text) == message


def test_every_dataset_without_a_source_is_named():
    message = _message(f"datasets: {{a: {GOOD}, b: {GOOD}}}")
    assert message.count("does not stand under `models`") == 2


@pytest.mark.parametrize("model", ["é", "/", "..", "-", " "])
def test_the_lines_to_write_for_a_model_can_be_followed(model):
    text = f"datasets: {{a: {{fasta: x, model: {model!r}}}}}"
    lines = _message(text).partition(":\n")[2]
    assert list(_complete(lines)["models"]) == ["my_model"]


# Mistakes


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "embeding: {precision: fp16}",
            f"embeding is no key of the configuration. Did you mean embedding? {TOP}",
        ),
        (
            "precision: fp16",
            "precision is no key of the configuration. Did you mean embedding.precision, after "
            f"--config 'embedding={{precision: fp16}}'? {TOP}",
        ),
        ("1: 2", f"1 is no key of the configuration. {TOP}"),
        ("reuse: []", f"reuse is no key of the configuration. {TOP}"),
        (
            "on_quarantine: warn",
            "on_quarantine is no key of the configuration. Did you mean execution.on_quarantine, "
            f"after --config 'execution={{on_quarantine: warn}}'? {TOP}",
        ),
        (
            "execution: {on_quarantine: stop}",
            "execution.on_quarantine is 'stop', but must be warn or fail.",
        ),
        ('"two\\nlines":', f"'two\\nlines' is no key of the configuration. {TOP}"),
        (
            "embedding: {poolling: 1}",
            "embedding.poolling is no key of the configuration. Did you mean pooling? "
            f"Known here: {EMBEDDING_KEYS}.",
        ),
        ("embedding: {pooling: sum}", "embedding.pooling is 'sum', but must be mean, cls or max."),
        *(
            (
                f"embedding: {{layer: {value}}}",
                f"embedding.layer is {found}, but must be last, or a whole number from 0 to "
                "10,000.",
            )
            for value, found in [("first", "'first'"), ("-1", "-1"), ("2.0", "2.0")]
        ),
        *(
            (
                f"embedding: {{per_residue: {value}}}",
                f"embedding.per_residue is {found}, but must be true or false.",
            )
            for value, found in [("1", "1"), ("'1'", "'1'"), ("often", "'often'"), ("''", "empty")]
        ),
        (
            "embedding: {storage: fp16}",
            "embedding.storage is 'fp16', but must be float32 or float16.",
        ),
        (
            "embedding: {invalid_residues: drop}",
            "embedding.invalid_residues is 'drop', but must be error, unk or skip.",
        ),
        (
            "embedding: fp16",
            "embedding is 'fp16', but must be a group of keys, such as `precision`.",
        ),
        (
            "embedding: {long_sequences: cut}",
            "embedding.long_sequences is 'cut', but must be auto, window, truncate, full or error.",
        ),
        (
            "embedding: {precision: true}",
            "embedding.precision is true, but must be auto, fp32, fp16 or bf16.",
        ),
        ("device: gpu", "device is 'gpu', but must be auto, cuda or cpu."),
        ("device: [cpu]", "device is the list ['cpu'], but must be auto, cuda or cpu."),
        (
            "ids: file",
            "ids is 'file', but must be header, file:header, whole-header or accession.",
        ),
        ("gaps: drop", "gaps is 'drop', but must be error, remove or keep."),
        ("suspicious: warn", "suspicious is 'warn', but must be error or allow."),
        *(
            (
                f"shards: {value}",
                f"shards is {found}, but must be a whole number from 1 to 10,000.",
            )
            for value, found in [
                ("0", "0"),
                ("'-1'", "-1"),
                ("true", "true"),
                ("2.0", "2.0"),
                ("'2.0'", "2.0"),
                ("two", "'two'"),
                ("{}", "an empty group"),
                ("{a: 1}", "a group of keys ('a')"),
                ("[]", "an empty list"),
                ("''", "empty"),
                ("2020-01-01", "2020-01-01"),
                ("x" * 99, "'" + "x" * 56 + "..."),
            ]
        ),
        *(
            (
                f"embedding: {{max_length: {value}}}",
                f"embedding.max_length is {found}, but must be auto, or a whole number from "
                "1 to 1,000,000,000.",
            )
            for value, found in [("long", "'long'"), ("1022.0", "1022.0"), ("0", "0")]
        ),
        (
            "execution: {token_budget: no}",
            "execution.token_budget is false, but must be auto, or a whole number from 1 to "
            "1,000,000,000.",
        ),
        *(
            (
                f"execution: {{checkpoint: {{seconds: {value}}}}}",
                f"execution.checkpoint.seconds is {found}, but must be a number over 0.",
            )
            for value, found in [("0", "0"), (".inf", "inf"), (".nan", "nan"), ("true", "true")]
        ),
        (
            "execution: {checkpoint: {sequence: 5}}",
            "execution.checkpoint.sequence is no key of the configuration. Did you mean sequences? "
            "Known here: sequences, seconds.",
        ),
        (
            "[1]",
            "The configuration is the list [1], but must be a group of keys, such as `datasets` "
            "and `models`.",
        ),
        (
            "datasets: x",
            "datasets is 'x', but must be names of datasets, each with its own keys indented "
            "below it (of one dataset, on the command line, write --config fasta=my.faa "
            "model=esm2_t33_650M_UR50D).",
        ),
        (
            "datasets: {mine: }",
            "datasets.mine.fasta is missing; write for example `fasta: data/*.faa`.\n"
            "datasets.mine.model is missing; write for example `model: esm2_t33_650M_UR50D`.",
        ),
        (
            "datasets: {fasta: x}",
            "datasets: the dataset's name is missing above `fasta`. Write on the command line "
            "`--config fasta=x model=esm2_t33_650M_UR50D`; in a file, a name such as `mine:`, and "
            "its keys indented below it.",
        ),
        *(
            (
                f"datasets: {{mine: {{fasta: {value}, model: m}}}}",
                f"datasets.mine.fasta is {found}, but must be {FASTA}.",
            )
            for value, found in [
                ("[]", "an empty list"),
                ("''", "empty"),
                ("['']", "the list ['']"),
                ("[a, 3]", "the list ['a', 3]"),
                ("3", "3"),
            ]
        ),
        (
            "datasets: {mine: {fasta: a, model: 5}}",
            "datasets.mine.model is 5, but must be the name of a model, a known one or one that "
            "stands under `models`.",
        ),
        (
            "datasets: {mine: {fasta: a, model: m, precision: fp16}}",
            "datasets.mine.precision is no key of the configuration. Did you mean "
            "embedding.precision, after --config 'embedding={precision: fp16}'? Known here: fasta, "
            "model, shards, embedding.",
        ),
        (
            "datasets: {mine: {fasta: a, model: m, shards: 0, embedding: {max_length: x}}}",
            "datasets.mine.embedding.max_length is 'x', but must be auto, or a whole number from "
            "1 to 1,000,000,000.\n"
            "datasets.mine.shards is 0, but must be a whole number from 1 to 10,000.",
        ),
        *(
            (
                f"datasets: {{{name}: {GOOD}}}",
                f"datasets: the name {shown} becomes part of file names and must be {NAME}.",
            )
            for name, shown in [
                ("a b", "'a b'"),
                ("a/b", "'a/b'"),
                (".a", "'.a'"),
                ("''", "''"),
                ("é", "'é'"),
                ('"a\\n"', r"'a\n'"),
            ]
        ),
        *(
            (
                f"datasets: {{{name}: {GOOD}}}",
                f"datasets: YAML reads a name as {found}, which is no text; put the name in "
                "quotes.",
            )
            for name, found in [("1", "1"), ("on", "true"), ("null", "empty")]
        ),
        (
            "models: {a: , b c: 3}",
            f"models.'b c' is 3, but must be {FOLDER}.\n"
            f"models.a is empty, but must be {FOLDER}.\n"
            f"models: the name 'b c' becomes part of file names and must be {NAME}.",
        ),
    ],
)
def test_a_mistake_is_told_in_a_sentence(text, message):
    assert _message(text) == message


def test_all_problems_are_told_at_once_one_a_line():
    text = "{shards: 0, device: gpu, ids: x, datasets: {a: {fasta: []}, 'b c': }}"
    lines = _message(text).splitlines()
    starts = ["datasets.'b c'.fasta", "datasets.'b c'.model", "datasets.a.fasta"]
    starts += ["datasets.a.model", "datasets: the name", "device is", "ids is", "shards is"]
    assert [line[: len(start)] for line, start in zip(lines, starts, strict=True)] == starts


@pytest.mark.parametrize("name", ["a", "A1", "1", "a.b-c_d", "esm2_t33_650M_UR50D"])
def test_names_that_are_allowed(name):
    config = _complete(f"{{datasets: {{'{name}': {GOOD}}}, models: {{m: x, '{name}': y}}}}")
    assert list(get_datasets(config)) == [name]


_keys = st.sampled_from(
    [
        *DEFAULTS,
        *DEFAULTS["embedding"],
        *DEFAULTS["execution"],
        *DEFAULTS["execution"]["checkpoint"],
        *(*SHORT, "mine", "a b"),
    ]
)
_scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=5),
    st.dates(),
    st.binary(max_size=3),
    st.sampled_from(["auto", "fp16", "error", "cpu", "header", "mine", "7", "2.5"]),
)
_junk = st.recursive(
    _scalars,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.one_of(_keys, _scalars), inner, max_size=4),
        st.dictionaries(_keys, inner, max_size=6),
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


_names = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,8}", fullmatch=True)
_length = st.one_of(st.just("auto"), st.integers(1, 1_000_000_000))
_embedding = st.fixed_dictionaries(
    {},
    optional={
        "layer": st.one_of(st.just("last"), st.integers(0, 10_000)),
        "pooling": st.sampled_from(["mean", "cls", "max"]),
        "per_residue": st.booleans(),
        "precision": st.sampled_from(["auto", "fp32", "fp16", "bf16"]),
        "storage": st.sampled_from(["float32", "float16"]),
        "long_sequences": st.sampled_from(["auto", "window", "truncate", "full", "error"]),
        "max_length": _length,
        "invalid_residues": st.sampled_from(["error", "unk", "skip"]),
    },
)
_texts = st.text(min_size=1)


@settings(deadline=None)
@given(st.data())
def test_what_is_allowed_is_never_refused(data):
    models = data.draw(st.dictionaries(_names, _texts, min_size=1, max_size=3))
    entry = st.fixed_dictionaries(
        {
            "fasta": st.one_of(_texts, st.lists(_texts, min_size=1)),
            "model": st.sampled_from([*sorted(models), *KNOWN]),
        },
        optional={"shards": st.integers(1, 10_000), "embedding": _embedding},
    )
    datasets = data.draw(st.dictionaries(_names, entry, max_size=3))
    shared = data.draw(_embedding)
    config = complete({"models": models, "datasets": datasets, "embedding": shared})
    for name, dataset in get_datasets(config).items():
        own = datasets[name].get("embedding", {})
        for key, default in DEFAULTS["embedding"].items():
            assert _asked(dataset, key) == own.get(key, shared.get(key, default))
        assert dataset.model_source == models.get(dataset.model, dataset.model)


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


def test_the_schema_is_a_schema():
    Draft202012Validator.check_schema(load_schema())


@pytest.mark.parametrize(("path", "node"), _properties(load_schema()).items())
def test_every_property_has_title_description_and_default(path, node):
    required = path in ("datasets.NAME.fasta", "datasets.NAME.model", *SHORT)
    assert node["title"] and node["description"]
    assert ("examples" if required else "default") in node


# A setting is a comment whose text is indented by an even number of blanks; prose begins with one.
SETTING = re.compile(r"^#((?:  )*[^\s#].*)$", re.MULTILINE)


def test_config_yaml_changes_no_default():
    text = (ROOT / "config/config.yaml").read_text()
    assert yaml.safe_load(text) == {"datasets": {}}


def test_config_yaml_shows_every_setting_with_its_default():
    text = (ROOT / "config/config.yaml").read_text()
    assert yaml.safe_load(SETTING.sub(r"\1", text)) == complete({}) == DEFAULTS


@pytest.mark.parametrize(
    "path",
    [
        path
        for path, node in _properties(load_schema()).items()
        if "enum" in node and "NAME" not in path
    ],
)
def test_config_yaml_names_every_choice(path):
    choices = " | ".join(_properties(load_schema())[path]["enum"])
    text = (ROOT / "config/config.yaml").read_text()
    assert re.search(
        rf"^# *{path.rpartition('.')[2]}: .*# {re.escape(choices)}", text, re.MULTILINE
    )


def test_the_example_of_config_yaml_is_allowed():
    text = (ROOT / "config/config.yaml").read_text()
    example = "\n".join(re.findall(r"^#     (.*)$", text, re.MULTILINE))
    assert list(get_datasets(_complete(example))) == ["viral_proteins"]


def test_the_readme_lists_every_key_with_its_default():
    text = (ROOT / "config/README.md").read_text()
    rows = re.findall(r"^\| `([\w.]+)` \| (.*?) \|", text, re.MULTILINE)
    own = {
        "fasta": "required",
        "model": "required",
        "shards": "as `shards`",
        "embedding": "as `embedding`",
    }
    words = {True: "true", False: "false"}
    flat = {k: words[v] if isinstance(v, bool) else v for k, v in _flat(DEFAULTS).items()}
    expected = {path: f"`{value}`" for path, value in flat.items()} | dict.fromkeys(SHORT, "none")
    expected.update({f"datasets.NAME.{key}": cell for key, cell in own.items()})
    assert dict(rows) == expected


def test_the_advice_for_an_empty_configuration_can_be_followed():
    text = describe_empty()
    options = re.search(r"--config (.*)", text)[1].split()
    short = dict(option.split("=") for option in options)
    written = yaml.safe_load(text[text.index("\ndatasets:") :])
    assert written == {"datasets": {"mine": short}}
    assert list(get_datasets(complete(short))) == ["my"]
    assert list(get_datasets(complete(written))) == ["mine"]


def test_our_own_file_passes():
    check_yaml(ROOT / "config/config.yaml")
