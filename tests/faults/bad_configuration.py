"""Configurations that are wrong, each with what its message has to say.

The whole messages are in messages/configuration.txt; more of what a single value may not be is in
tests/unit/test_configuration.py.
"""

from __future__ import annotations

from datetime import date
from typing import Any

GOOD = {"fasta": "a.faa", "model": "esm2_t6_8M_UR50D"}

# The content of a file, and what is said of it under the name config.yaml.
BAD_FILES: dict[str, tuple[bytes, str]] = {
    "an empty file": (b"", "config.yaml: has no keys"),
    "comments alone": (b"#datasets:\n#  mine:\n", "config.yaml: has no keys"),
    "a list": (b"- datasets\n- models\n", "config.yaml: has no keys"),
    "a text": (b"datasets\n", "config.yaml: has no keys"),
    "Latin-1": (b"# prot\xe9ines\ndatasets: {}\n", "config.yaml is not UTF-8 text"),
    "UTF-16": ("datasets: {}\n".encode("utf-16"), "config.yaml is not UTF-8 text"),
    "a NUL": (b"datasets: {}\nshards: 2\0\n", "config.yaml: YAML forbids the character U+0000"),
    "an escape": (b"datasets: {}\n# \x1b[31m\n", "the character U+001B"),
    "a tab for blanks": (b"datasets:\n\tmine:\n", "config.yaml, line 2: not valid YAML"),
    "a key that is indented under a comment": (
        b"datasets: {}\n#embedding:\n  precision: fp32\n",
        "config.yaml, line 3: not valid YAML",
    ),
    "a colon too many": (b"datasets:\n  mine: fasta: a.faa\n", "line 2: not valid YAML"),
    "an open quote": (b"datasets:\n  mine: {fasta: 'a.faa, model: m}\n", "line 3: not valid YAML"),
    "an open brace": (b"datasets: {mine: {fasta: a.faa\n", "line 2: not valid YAML"),
    "a pattern without quotes": (
        b"datasets:\n  mine:\n    fasta: *.faa\n    model: m\n",
        "begins with `*` in quotes",
    ),
    "an unknown tag": (b"datasets: !mine {}\n", "line 1: not valid YAML"),
    "an object of Python": (
        b"datasets: !!python/object/apply:os.system [id]\n",
        "line 1: not valid YAML",
    ),
    "a list for a key": (b"? [a]\n: b\n", "line 1: not valid YAML (found unhashable key)"),
    "two documents": (b"datasets: {}\n---\nshards: 2\n", "line 2: not valid YAML"),
    "a version of YAML that is none": (b"%YAML 9.0\n---\ndatasets: {}\n", "line 1: not valid YAML"),
    "10,000 brackets": (
        b"a: " + b"[" * 10_000,
        "config.yaml: groups or lists are nested too deeply",
    ),
    "a date that is none": (
        b"datasets:\n  mine: {fasta: a.faa, model: 2020-13-45}\n",
        "config.yaml, line 2: YAML cannot read the value '2020-13-45'",
    ),
    "a number of 5,000 digits": (b"shards: 1" + b"0" * 5_000, "line 1: YAML cannot read the value"),
    "a number that is none": (b"datasets: {}\nshards: !!int two\n", "YAML cannot read the value"),
    "an alias that is none": (
        b"datasets:\n  mine: {fasta: *faa, model: m}\n",
        "begins with `*` in quotes",
    ),
    "a key twice": (
        b"shards: 2\ndatasets: {}\nshards: 4\n",
        "config.yaml, line 3: the key 'shards' is already in line 1",
    ),
    "a dataset twice": (
        b'datasets:\n  mine: {fasta: a.faa, model: m}\n  "mine": {fasta: b.faa, model: m}\n',
        "config.yaml, line 3: the key 'mine' is already in line 2",
    ),
    "a key twice on a line": (
        b"datasets: {mine: {fasta: a.faa, model: m, fasta: b.faa}}\n",
        "config.yaml, line 1: the key 'fasta' is already in line 1",
    ),
}

# A configuration as Snakemake hands it on, and what is said of it.
BAD_CONFIGURATIONS: dict[str, tuple[dict[Any, Any], str]] = {
    "a name that leaves the folder": ({"datasets": {"../../etc": GOOD}}, "the name '../../etc'"),
    "a name that is a folder's own": ({"datasets": {"..": GOOD}}, "the name '..'"),
    "a name for a shell": ({"datasets": {"$(touch x)": GOOD}}, "the name '$(touch x)'"),
    "a name that looks like an option": ({"datasets": {"--force": GOOD}}, "the name '--force'"),
    "a name that is read from right to left": ({"datasets": {"a\u202eb": GOOD}}, r"'a\u202eb'"),
    "a name of two lines": ({"datasets": {"a\nb": GOOD}}, r"the name 'a\nb'"),
    "a name with half of a surrogate pair": ({"datasets": {"\ud800": GOOD}}, r"'\ud800'"),
    "a name with a NUL": ({"datasets": {"a\0b": GOOD}}, r"the name 'a\x00b'"),
    "a name that no file system holds": ({"datasets": {"a" * 201: GOOD}}, "1 to 200 letters"),
    "a model of such a name": ({"models": {"m" * 300: "/data/m"}}, "models: the name"),
    "a key of 10,000 letters": ({"k" * 10_000: 1}, "kkk... is not a key of the configuration"),
    "a key that is no text": ({b"shards": 2}, "Did you mean shards?"),
    "shards beyond any cluster": ({"shards": 10_001}, "shards is 10001, but must be"),
    "shards beyond any number": ({"shards": 10**30}, "shards is 1000"),
    "shards as a text of digits": ({"shards": "9" * 15}, "shards is 999999999999999, but"),
    "shards as a text of too many digits": ({"shards": "9" * 40}, "shards is '9999"),
    "shards in Arabic digits": ({"shards": "\u0662"}, "shards is '\u0662', but must be"),
    "a length beyond any sequence": (
        {"embedding": {"max_length": 10**30}},
        "embedding.max_length is 1000",
    ),
    "a layer that no model has": ({"embedding": {"layer": 10_001}}, "embedding.layer is 10001"),
    "a budget beyond any memory": (
        {"execution": {"token_budget": 10**10}},
        "execution.token_budget is 10000000000, but must be",
    ),
    "time that runs backwards": (
        {"execution": {"checkpoint": {"seconds": -1}}},
        "execution.checkpoint.seconds is -1",
    ),
    "infinity as a text": ({"execution": {"checkpoint": {"seconds": "inf"}}}, "seconds is 'inf'"),
    "no number as a text": ({"execution": {"checkpoint": {"seconds": "nan"}}}, "seconds is 'nan'"),
    "bytes for a path": ({"datasets": {"mine": {"fasta": b"a.faa", "model": "m"}}}, "is b'a.faa'"),
    "a date for a path": (
        {"datasets": {"mine": {"fasta": date(2020, 1, 2), "model": "m"}}},
        "datasets.mine.fasta is 2020-01-02",
    ),
    "a list in a list of paths": (
        {"datasets": {"mine": {"fasta": [["a.faa"]], "model": "m"}}},
        "datasets.mine.fasta is the list [['a.faa']]",
    ),
    "paths in a group": (
        {"datasets": {"mine": {"fasta": {"a.faa": None}, "model": "m"}}},
        "datasets.mine.fasta is a group of keys ('a.faa')",
    ),
    "datasets in a list": ({"datasets": [{"mine": GOOD}]}, "datasets is the list [{'mine'"),
    "a set of datasets": ({"datasets": {"mine"}}, "datasets is {'mine'}"),
    "yes and no in one": (
        {"embedding": {"per_residue": ["true"]}},
        "embedding.per_residue is the list ['true'], but must be true or false",
    ),
    "a model's path in place of its name": (
        {"datasets": {"mine": {"fasta": "a.faa", "model": "/data/m\n1"}}},
        r"datasets.mine.model is '/data/m\n1'",
    ),
    "braces that bash expanded": (
        {"datasets": {"mine:fasta:a.faa": "", "mine:model:esm2_t6_8M_UR50D": ""}},
        "datasets: 'mine:fasta:a.faa' lacks a blank after its colon",
    ),
    "braces in quotes without blanks": (
        {"datasets": {"mine": {"fasta:a.faa": "", "model:esm2_t6_8M_UR50D": ""}}},
        "datasets: 'fasta:a.faa' lacks a blank after its colon",
    ),
    "a key without a blank in a file": (
        {"datasets": {"mine": {"fasta": "a.faa", "model:m": None}}},
        "datasets: 'model:m' lacks a blank after its colon",
    ),
    "a setting without a blank": (
        {"embedding": {"pooling:max": ""}},
        "in quotes: 'embedding={pooling: max}'",
    ),
    "a dataset without a name": (
        {"datasets": {"fasta": "a b.faa", "model": "m"}},
        "`--config fasta='a b.faa' model=m`",
    ),
    "the short form without a model": ({"fasta": "a.faa"}, "`model` is missing beside `fasta`"),
    "the short form without sequences": (
        {"model": "m", "name": "mine"},
        "`fasta` is missing beside `model` and `name`",
    ),
    "a name alone": ({"name": "mine"}, "`fasta` is missing beside `name`"),
    "the short form in one pair of quotes": (
        {"fasta": "a.faa model=m"},
        "Here 'a.faa model=m' is one word",
    ),
    "the short form with commas between": (
        {"fasta": "a.faa,model=m,name=x"},
        "Here 'a.faa,model=m,name=x' is one word",
    ),
    "several files without a name": (
        {"fasta": "data/a.faa,b.faa", "model": "m"},
        "`--config fasta=data/a.faa,b.faa model=m name=data`",
    ),
    "a pattern without a name": (
        {"fasta": "*.faa", "model": "m"},
        "`--config fasta='*.faa' model=m name=mine`",
    ),
    "standard input, as YAML reads it": ({"fasta": [""], "model": "m"}, "`-` is standard input"),
    "a number for a name": ({"fasta": "a.faa", "model": "m", "name": 7}, "name is 7, but must be"),
    "a name with a blank": (
        {"fasta": "a.faa", "model": "m", "name": "my run"},
        "name is 'my run', but must be",
    ),
    "Snakemake's own resources among the keys": ({"gpus": 2}, "write --resources gpu=2"),
    "a key in capitals": ({"FASTA": "a.faa"}, "Did you mean fasta?"),
    "a path for models": ({"models": "/data/m"}, "models is '/data/m', but must be"),
}
