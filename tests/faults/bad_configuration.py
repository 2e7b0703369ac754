"""Configurations that are wrong; messages/configuration.txt holds the message of each.

More of what a single value may not be is in tests/unit/test_configuration.py.
"""

from __future__ import annotations

from datetime import date
from typing import Any

GOOD = {"fasta": "a.faa", "model": "esm2_t6_8M_UR50D"}

# The content of config.yaml.
BAD_FILES: dict[str, bytes] = {
    "an empty file": b"",
    "comments alone": b"#datasets:\n#  mine:\n",
    "a list": b"- datasets\n- models\n",
    "a text": b"datasets\n",
    "Latin-1": b"# prot\xe9ines\ndatasets: {}\n",
    "UTF-16": "datasets: {}\n".encode("utf-16"),
    "a NUL": b"datasets: {}\nshards: 2\0\n",
    "an escape": b"datasets: {}\n# \x1b[31m\n",
    "a tab for blanks": b"datasets:\n\tmine:\n",
    "a key that is indented under a comment": b"datasets: {}\n#embedding:\n  precision: fp32\n",
    "a colon too many": b"datasets:\n  mine: fasta: a.faa\n",
    "an open quote": b"datasets:\n  mine: {fasta: 'a.faa, model: m}\n",
    "an open brace": b"datasets: {mine: {fasta: a.faa\n",
    "a pattern without quotes": b"datasets:\n  mine:\n    fasta: *.faa\n    model: m\n",
    "an unknown tag": b"datasets: !mine {}\n",
    "a list for a key": b"? [a]\n: b\n",
    "two documents": b"datasets: {}\n---\nshards: 2\n",
    "an unknown version of YAML": b"%YAML 9.0\n---\ndatasets: {}\n",
    "10,000 brackets": b"a: " + b"[" * 10_000,
    "an impossible date": b"datasets:\n  mine: {fasta: a.faa, model: 2020-13-45}\n",
    "a number of 5,000 digits": b"shards: 1" + b"0" * 5_000,
    "a word tagged as a number": b"datasets: {}\nshards: !!int two\n",
    "an alias of nothing": b"datasets:\n  mine: {fasta: *faa, model: m}\n",
    "a key twice": b"shards: 2\ndatasets: {}\nshards: 4\n",
    "a dataset twice": b"datasets:\n  mine: {fasta: a.faa, model: m}\n  'mine': {model: m}\n",
    "a key twice on a line": b"datasets: {mine: {fasta: a.faa, model: m, fasta: b.faa}}\n",
}

# A configuration as Snakemake hands it on.
BAD_CONFIGURATIONS: dict[str, dict[Any, Any]] = {
    "a name that leaves the folder": {"datasets": {"../../etc": GOOD}},
    "a name that is a folder's own": {"datasets": {"..": GOOD}},
    "a name for a shell": {"datasets": {"$(touch x)": GOOD}},
    "a name that looks like an option": {"datasets": {"--force": GOOD}},
    "a name that is read from right to left": {"datasets": {"a\u202eb": GOOD}},
    "a name of two lines": {"datasets": {"a\nb": GOOD}},
    "a name with half of a surrogate pair": {"datasets": {"\ud800": GOOD}},
    "a name with a NUL": {"datasets": {"a\0b": GOOD}},
    "a name that no file system holds": {"datasets": {"a" * 201: GOOD}},
    "a name that is a wildcard": {"datasets": {"{x}": GOOD}},
    "a model that leaves the folder": {"models": {"../x": "/data/m"}},
    "a model of such a name": {"models": {"m" * 300: "/data/m"}},
    "a key of 10,000 letters": {"k" * 10_000: 1},
    "a key of bytes": {b"shards": 2},
    "shards beyond any cluster": {"shards": 10_001},
    "shards beyond any number": {"shards": 10**30},
    "shards as a text of digits": {"shards": "9" * 15},
    "shards as a text of too many digits": {"shards": "9" * 40},
    "shards in Arabic digits": {"shards": "\u0662"},
    "a length beyond any sequence": {"embedding": {"max_length": 10**30}},
    "a layer that no model has": {"embedding": {"layer": 10_001}},
    "a budget beyond any memory": {"execution": {"token_budget": 10**10}},
    "time that runs backwards": {"execution": {"checkpoint": {"seconds": -1}}},
    "infinity as a text": {"execution": {"checkpoint": {"seconds": "inf"}}},
    "no number as a text": {"execution": {"checkpoint": {"seconds": "nan"}}},
    "bytes for a path": {"datasets": {"mine": {"fasta": b"a.faa", "model": "m"}}},
    "a date for a path": {"datasets": {"mine": {"fasta": date(2020, 1, 2), "model": "m"}}},
    "a list in a list of paths": {"datasets": {"mine": {"fasta": [["a.faa"]], "model": "m"}}},
    "paths in a group": {"datasets": {"mine": {"fasta": {"a.faa": None}, "model": "m"}}},
    "datasets in a list": {"datasets": [{"mine": GOOD}]},
    "a set of datasets": {"datasets": {"mine"}},
    "yes and no in one": {"embedding": {"per_residue": ["true"]}},
    "a model's path in place of its name": {
        "datasets": {"mine": {"fasta": "a.faa", "model": "/data/m\n1"}}
    },
    "braces that bash expanded": {
        "datasets": {"mine:fasta:a.faa": "", "mine:model:esm2_t6_8M_UR50D": ""}
    },
    "braces in quotes without blanks": {
        "datasets": {"mine": {"fasta:a.faa": "", "model:esm2_t6_8M_UR50D": ""}}
    },
    "a key without a blank in a file": {"datasets": {"mine": {"fasta": "a.faa", "model:m": None}}},
    "a setting without a blank": {"embedding": {"pooling:max": ""}},
    "a dataset without a name": {"datasets": {"fasta": "a b.faa", "model": "m"}},
    "the short form without a model": {"fasta": "a.faa"},
    "the short form without sequences": {"model": "m", "name": "mine"},
    "a name alone": {"name": "mine"},
    "the short form in one pair of quotes": {"fasta": "a.faa model=m"},
    "the short form with commas between": {"fasta": "a.faa,model=m,name=x"},
    "several files without a name": {"fasta": "data/a.faa,b.faa", "model": "m"},
    "a pattern without a name": {"fasta": "*.faa", "model": "m"},
    "standard input, as YAML reads it": {"fasta": [""], "model": "m"},
    "a number for a name": {"fasta": "a.faa", "model": "m", "name": 7},
    "a name with a blank": {"fasta": "a.faa", "model": "m", "name": "my run"},
    "Snakemake's own resources among the keys": {"gpus": 2},
    "a key in capitals": {"FASTA": "a.faa"},
    "a path for models": {"models": "/data/m"},
    "a number of earlier results": {"reuse": 5},
    "an earlier result without a path": {"reuse": [""]},
    "a type that exports do not have": {"exports": {"dtype": "double"}},
    "two tables of annotations": {"exports": {"annotations": ["a.tsv", "b.tsv"]}},
    "earlier results in a group": {"reuse": {"old": "a.h5"}},
    "the short form with earlier results in its quotes": {"fasta": "a.faa reuse=x.h5"},
}
