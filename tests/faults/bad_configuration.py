"""Configurations that are wrong, and the whole of what is said about each.

More of what a single value may not be is in tests/unit/test_configuration.py.
"""

from __future__ import annotations

from datetime import date
from typing import Any

KEYS = (
    "Known here: datasets, fasta, model, name, models, shards, device, embedding, ids, gaps, "
    "suspicious, execution."
)
GOOD = {"fasta": "a.faa", "model": "esm2_t6_8M_UR50D"}


def _make_endless() -> list[Any]:
    """A list that few aliases of YAML make, of 2 ** 40 texts when it is written out."""
    values: list[Any] = ["x"]
    for _ in range(40):
        values = [values, values]
    return values


# The content of a file, and what is said of it under the name config.yaml.
BAD_FILES: dict[str, tuple[bytes, str]] = {
    "an empty file": (
        b"",
        "config.yaml: holds no keys; write `datasets:` and what belongs below it, or "
        "remove the file.",
    ),
    "comments alone": (
        b"#datasets:\n#  mine:\n",
        "config.yaml: holds no keys; write `datasets:` and what belongs below it, or "
        "remove the file.",
    ),
    "a list": (
        b"- datasets\n- models\n",
        "config.yaml: holds no keys; write `datasets:` and what belongs below it, or "
        "remove the file.",
    ),
    "a text": (
        b"datasets\n",
        "config.yaml: holds no keys; write `datasets:` and what belongs below it, or "
        "remove the file.",
    ),
    "Latin-1": (
        b"# prot\xe9ines\ndatasets: {}\n",
        "config.yaml is not UTF-8 text; save it as UTF-8.",
    ),
    "UTF-16": (
        "datasets: {}\n".encode("utf-16"),
        "config.yaml is not UTF-8 text; save it as UTF-8.",
    ),
    "a NUL": (
        b"datasets: {}\nshards: 2\0\n",
        "config.yaml: YAML forbids the character U+0000 in it; remove it.",
    ),
    "an escape": (
        b"datasets: {}\n# \x1b[31m\n",
        "config.yaml: YAML forbids the character U+001B in it; remove it.",
    ),
    "a tab for blanks": (
        b"datasets:\n\tmine:\n",
        "config.yaml, line 2: this is no YAML (found character '\\t' that cannot start any "
        "token). Is a line indented differently from its neighbours, or the line that it "
        "belongs under still a comment?",
    ),
    "a key that is indented under a comment": (
        b"datasets: {}\n#embedding:\n  precision: fp32\n",
        "config.yaml, line 3: this is no YAML (expected <block end>, but found '<block "
        "mapping start>'). Is a line indented differently from its neighbours, or the line "
        "that it belongs under still a comment?",
    ),
    "a colon too many": (
        b"datasets:\n  mine: fasta: a.faa\n",
        "config.yaml, line 2: this is no YAML (mapping values are not allowed here). Is a "
        "line indented differently from its neighbours, or the line that it belongs under "
        "still a comment?",
    ),
    "an open quote": (
        b"datasets:\n  mine: {fasta: 'a.faa, model: m}\n",
        "config.yaml, line 3: this is no YAML (found unexpected end of stream). Is a line "
        "indented differently from its neighbours, or the line that it belongs under still "
        "a comment?",
    ),
    "an open brace": (
        b"datasets: {mine: {fasta: a.faa\n",
        "config.yaml, line 2: this is no YAML (expected ',' or '}', but got '<stream "
        "end>'). Is a line indented differently from its neighbours, or the line that it "
        "belongs under still a comment?",
    ),
    "a pattern without quotes": (
        b"datasets:\n  mine:\n    fasta: *.faa\n    model: m\n",
        "config.yaml, line 3: this is no YAML (expected alphabetic or numeric character, "
        "but found '.'). Put a pattern that begins with `*` in quotes.",
    ),
    "an unknown tag": (
        b"datasets: !mine {}\n",
        "config.yaml, line 1: this is no YAML (could not determine a constructor for the "
        "tag '!mine'). Is a line indented differently from its neighbours, or the line "
        "that it belongs under still a comment?",
    ),
    "an object of Python": (
        b"datasets: !!python/object/apply:os.system [id]\n",
        "config.yaml, line 1: this is no YAML (could not determine a constructor for the "
        "tag 'tag:yaml.org,2002:python/object/apply:os.system'). Is a line indented "
        "differently from its neighbours, or the line that it belongs under still a "
        "comment?",
    ),
    "a list for a key": (
        b"? [a]\n: b\n",
        "config.yaml, line 1: this is no YAML (found unhashable key). Is a line indented "
        "differently from its neighbours, or the line that it belongs under still a "
        "comment?",
    ),
    "two documents": (
        b"datasets: {}\n---\nshards: 2\n",
        "config.yaml, line 2: this is no YAML (but found another document). Is a line "
        "indented differently from its neighbours, or the line that it belongs under still "
        "a comment?",
    ),
    "a version of YAML that is none": (
        b"%YAML 9.0\n---\ndatasets: {}\n",
        "config.yaml, line 1: this is no YAML (found incompatible YAML document (version "
        "1.* is required)). Is a line indented differently from its neighbours, or the "
        "line that it belongs under still a comment?",
    ),
    "10,000 brackets": (
        b"a: " + b"[" * 10_000,
        "config.yaml: its values are nested too deeply; write plain ones.",
    ),
    "a date that is none": (
        b"datasets:\n  mine: {fasta: a.faa, model: 2020-13-45}\n",
        "config.yaml, line 2: YAML cannot read the value '2020-13-45'; put it in quotes.",
    ),
    "a number of 5,000 digits": (
        b"shards: 1" + b"0" * 5_000,
        "config.yaml, line 1: YAML cannot read the value "
        "'100000000000000000000000000000000000000000000000000000000...'; put it in quotes.",
    ),
    "a number that is none": (
        b"datasets: {}\nshards: !!int two\n",
        "config.yaml, line 2: YAML cannot read the value 'two'; put it in quotes.",
    ),
    "a group that holds itself": (
        b"datasets: &all\n  mine: *all\n",
        "config.yaml, line 1: an alias stands within what it stands for; write its values out.",
    ),
    "a list that holds itself": (
        b"datasets:\n  mine: {fasta: &all [a.faa, *all], model: m}\n",
        "config.yaml, line 2: an alias stands within what it stands for; write its values out.",
    ),
    "a file of 2 ** 30 values": (
        b"a0: &a0 [x, x]\n"
        + b"".join(b"a%d: &a%d [*a%d, *a%d]\n" % (n, n, n - 1, n - 1) for n in range(1, 30)),
        "The configuration holds over 1,000,000 values; write fewer.",
    ),
    "an alias that is none": (
        b"datasets:\n  mine: {fasta: *faa, model: m}\n",
        "config.yaml, line 2: this is no YAML (found undefined alias 'faa'). Put a pattern "
        "that begins with `*` in quotes.",
    ),
    "a key twice": (
        b"shards: 2\ndatasets: {}\nshards: 4\n",
        "config.yaml, line 3: the key 'shards' already stands in line 1; keep one.",
    ),
    "a dataset twice": (
        b'datasets:\n  mine: {fasta: a.faa, model: m}\n  "mine": {fasta: b.faa, model: m}\n',
        "config.yaml, line 3: the key 'mine' already stands in line 2; keep one.",
    ),
    "a key twice on a line": (
        b"datasets: {mine: {fasta: a.faa, model: m, fasta: b.faa}}\n",
        "config.yaml, line 1: the key 'fasta' already stands in line 1; keep one.",
    ),
}

# A configuration as Snakemake hands it on, and the whole of what is said of it.
BAD_CONFIGURATIONS: dict[str, tuple[dict[Any, Any], str]] = {
    "a name that leaves the folder": (
        {"datasets": {"../../etc": GOOD}},
        "datasets: the name '../../etc' becomes part of file names and must be 1 to 200 "
        "letters, digits, `.`, `_` and `-` only, beginning with a letter or a digit.",
    ),
    "a name that is a folder's own": (
        {"datasets": {"..": GOOD}},
        "datasets: the name '..' becomes part of file names and must be 1 to 200 letters, "
        "digits, `.`, `_` and `-` only, beginning with a letter or a digit.",
    ),
    "a name for a shell": (
        {"datasets": {"$(touch x)": GOOD}},
        "datasets: the name '$(touch x)' becomes part of file names and must be 1 to 200 "
        "letters, digits, `.`, `_` and `-` only, beginning with a letter or a digit.",
    ),
    "a name that looks like an option": (
        {"datasets": {"--force": GOOD}},
        "datasets: the name '--force' becomes part of file names and must be 1 to 200 "
        "letters, digits, `.`, `_` and `-` only, beginning with a letter or a digit.",
    ),
    "a name that is read from right to left": (
        {"datasets": {"a\u202eb": GOOD}},
        "datasets: the name 'a\\u202eb' becomes part of file names and must be 1 to 200 "
        "letters, digits, `.`, `_` and `-` only, beginning with a letter or a digit.",
    ),
    "a name of two lines": (
        {"datasets": {"a\nb": GOOD}},
        "datasets: the name 'a\\nb' becomes part of file names and must be 1 to 200 "
        "letters, digits, `.`, `_` and `-` only, beginning with a letter or a digit.",
    ),
    "a name with half of a surrogate pair": (
        {"datasets": {"\ud800": GOOD}},
        "datasets: the name '\\ud800' becomes part of file names and must be 1 to 200 "
        "letters, digits, `.`, `_` and `-` only, beginning with a letter or a digit.",
    ),
    "a name with a NUL": (
        {"datasets": {"a\0b": GOOD}},
        "datasets: the name 'a\\x00b' becomes part of file names and must be 1 to 200 "
        "letters, digits, `.`, `_` and `-` only, beginning with a letter or a digit.",
    ),
    "a name that no file system holds": (
        {"datasets": {"a" * 201: GOOD}},
        "datasets: the name 'aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa... "
        "becomes part of file names and must be 1 to 200 letters, digits, `.`, `_` and `-` "
        "only, beginning with a letter or a digit.",
    ),
    "a model of such a name": (
        {"models": {"m" * 300: "/data/m"}},
        "models: the name 'mmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmm... "
        "becomes part of file names and must be 1 to 200 letters, digits, `.`, `_` and `-` "
        "only, beginning with a letter or a digit.",
    ),
    "a key of 10,000 letters": (
        {"k" * 10_000: 1},
        "'kkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkk... is no key of the "
        "configuration. Known here: datasets, fasta, model, name, models, shards, device, "
        "embedding, ids, gaps, suspicious, execution.",
    ),
    "a key that is no text": (
        {b"shards": 2},
        "\"b'shards'\" is no key of the configuration. Did you mean shards? Known here: "
        "datasets, fasta, model, name, models, shards, device, embedding, ids, gaps, "
        "suspicious, execution.",
    ),
    "shards beyond any cluster": (
        {"shards": 10_001},
        "shards is 10001, but must be a whole number from 1 to 10,000.",
    ),
    "shards beyond any number": (
        {"shards": 10**30},
        "shards is 1000000000000000000000000000000, but must be a whole number from 1 to 10,000.",
    ),
    "shards as a text of digits": (
        {"shards": "9" * 15},
        "shards is 999999999999999, but must be a whole number from 1 to 10,000.",
    ),
    "shards as a text of too many digits": (
        {"shards": "9" * 40},
        "shards is '9999999999999999999999999999999999999999', but must be a whole number "
        "from 1 to 10,000.",
    ),
    "shards in Arabic digits": (
        {"shards": "\u0662"},
        "shards is '٢', but must be a whole number from 1 to 10,000.",
    ),
    "a length beyond any sequence": (
        {"embedding": {"max_length": 10**30}},
        "embedding.max_length is 1000000000000000000000000000000, but must be auto, or a "
        "whole number from 1 to 1,000,000,000.",
    ),
    "a layer that no model has": (
        {"embedding": {"layer": 10_001}},
        "embedding.layer is 10001, but must be last, or a whole number from 0 to 10,000.",
    ),
    "a budget beyond any memory": (
        {"execution": {"token_budget": 10**10}},
        "execution.token_budget is 10000000000, but must be auto, or a whole number from 1 "
        "to 1,000,000,000.",
    ),
    "time that runs backwards": (
        {"execution": {"checkpoint": {"seconds": -1}}},
        "execution.checkpoint.seconds is -1, but must be a number over 0.",
    ),
    "infinity as a text": (
        {"execution": {"checkpoint": {"seconds": "inf"}}},
        "execution.checkpoint.seconds is 'inf', but must be a number over 0.",
    ),
    "no number as a text": (
        {"execution": {"checkpoint": {"seconds": "nan"}}},
        "execution.checkpoint.seconds is 'nan', but must be a number over 0.",
    ),
    "bytes for a path": (
        {"datasets": {"mine": {"fasta": b"a.faa", "model": "m"}}},
        "datasets.mine.fasta is b'a.faa', but must be a path or a glob, such as "
        "data/*.faa, or a list of at least one of them.",
    ),
    "a date for a path": (
        {"datasets": {"mine": {"fasta": date(2020, 1, 2), "model": "m"}}},
        "datasets.mine.fasta is 2020-01-02, but must be a path or a glob, such as "
        "data/*.faa, or a list of at least one of them.",
    ),
    "a list in a list of paths": (
        {"datasets": {"mine": {"fasta": [["a.faa"]], "model": "m"}}},
        "datasets.mine.fasta is the list [['a.faa']], but must be a path or a glob, such "
        "as data/*.faa, or a list of at least one of them.",
    ),
    "paths in a group": (
        {"datasets": {"mine": {"fasta": {"a.faa": None}, "model": "m"}}},
        "datasets.mine.fasta is a group of keys ('a.faa'), but must be a path or a glob, "
        "such as data/*.faa, or a list of at least one of them.",
    ),
    "a list that has no end when it is written out": (
        {"datasets": {"mine": {"fasta": _make_endless(), "model": "m"}}},
        "The configuration holds over 1,000,000 values; write fewer.",
    ),
    "datasets in a list": (
        {"datasets": [{"mine": GOOD}]},
        "datasets is the list [{'mine': {'fasta': 'a.faa', 'model': 'esm2_t6_8..., but "
        "must be names of datasets, each with its own keys indented below it (of one dataset, "
        "on the command line, write --config fasta=my.faa model=esm2_t33_650M_UR50D).",
    ),
    "a set of datasets": (
        {
            "datasets": {
                "mine",
            }
        },
        "datasets is {'mine'}, but must be names of datasets, each with its own keys "
        "indented below it (of one dataset, on the command line, write --config fasta=my.faa "
        "model=esm2_t33_650M_UR50D).",
    ),
    "yes and no in one": (
        {"embedding": {"per_residue": ["true"]}},
        "embedding.per_residue is the list ['true'], but must be true or false.",
    ),
    "a model's path in place of its name": (
        {"datasets": {"mine": {"fasta": "a.faa", "model": "/data/m\n1"}}},
        "datasets.mine.model is '/data/m\\n1', which is no known name and does not stand "
        "under `models`. Known: esm2_t6_8M_UR50D, esm2_t12_35M_UR50D, esm2_t30_150M_UR50D, "
        "esm2_t33_650M_UR50D, esm2_t36_3B_UR50D, esm2_t48_15B_UR50D, DNABERT-S, DNABERT-2. "
        "Of another model give the folder or .pt file under `models:` and write `model: "
        "m_1` in the dataset; after --config, model=m_1 "
        "'models={m_1: /path/to/its_folder_or_file.pt}'; in a file:\n"
        "models:\n"
        "  m_1: /path/to/its_folder_or_file.pt",
    ),
    "braces that bash expanded": (
        {"datasets": {"mine:fasta:a.faa": "", "mine:model:esm2_t6_8M_UR50D": ""}},
        "datasets: 'mine:fasta:a.faa' lacks a blank after its colon, or quotes around it, and "
        "is read as one key. Write on the command line `--config fasta=a.faa "
        "model=esm2_t6_8M_UR50D name=mine`; in a file, a blank after each colon.",
    ),
    "braces in quotes without blanks": (
        {"datasets": {"mine": {"fasta:a.faa": "", "model:esm2_t6_8M_UR50D": ""}}},
        "datasets: 'fasta:a.faa' lacks a blank after its colon, or quotes around it, and "
        "is read as one key. Write on the command line `--config fasta=a.faa "
        "model=esm2_t6_8M_UR50D name=mine`; in a file, a blank after each colon.",
    ),
    "a key without a blank in a file": (
        {"datasets": {"mine": {"fasta": "a.faa", "model:m": None}}},
        "datasets: 'model:m' lacks a blank after its colon, or quotes around it, and is read as "
        "one key. Write on the command line `--config fasta=a.faa model=m name=mine`; "
        "in a file, a blank after each colon.",
    ),
    "a setting without a blank": (
        {"embedding": {"pooling:max": ""}},
        "embedding: 'pooling:max' lacks a blank after its colon, and is read as one key. "
        "Write `pooling: max`; after --config, in quotes: 'embedding={pooling: max}'.",
    ),
    "a dataset without a name": (
        {"datasets": {"fasta": "a b.faa", "model": "m"}},
        "datasets: the dataset's name is missing above `fasta`. Write on the command line "
        "`--config fasta='a b.faa' model=m`; in a file, a name such as `mine:`, and its keys "
        "indented below it.",
    ),
    "the short form without a model": (
        {"fasta": "a.faa"},
        "`fasta` is given without `model`; write for example `--config fasta=a.faa "
        "model=esm2_t33_650M_UR50D`, all of it after one --config.",
    ),
    "the short form without sequences": (
        {"model": "m", "name": "mine"},
        "`model` and `name` are given without `fasta`; write for example `--config fasta=my.faa "
        "model=m name=mine`, all of it after one --config.",
    ),
    "a name alone": (
        {"name": "mine"},
        "`name` is given without `fasta`; write for example `--config fasta=my.faa "
        "model=esm2_t33_650M_UR50D name=mine`, all of it after one --config.",
    ),
    "the short form in one pair of quotes": (
        {"fasta": "a.faa model=m"},
        "`fasta` is given without `model`; write for example `--config fasta=a.faa "
        "model=esm2_t33_650M_UR50D`, all of it after one --config. Here 'a.faa model=m' is one "
        "word: put a blank between, and no quotes around both.",
    ),
    "the short form with commas between": (
        {"fasta": "a.faa,model=m,name=x"},
        "`fasta` is given without `model`; write for example `--config fasta=a.faa "
        "model=esm2_t33_650M_UR50D`, all of it after one --config. Here 'a.faa,model=m,name=x' is "
        "one word: put a blank between, and no quotes around both.",
    ),
    "several files without a name": (
        {"fasta": "data/a.faa,b.faa", "model": "m"},
        "`fasta` gives the dataset no name: it is several files, a pattern, or a file without "
        "plain letters in its name. The results go to results/NAME; write for example `--config "
        "fasta=data/a.faa,b.faa model=m name=data`.",
    ),
    "a pattern without a name": (
        {"fasta": "*.faa", "model": "m"},
        "`fasta` gives the dataset no name: it is several files, a pattern, or a file without "
        "plain letters in its name. The results go to results/NAME; write for example `--config "
        "fasta='*.faa' model=m name=mine`.",
    ),
    "standard input, as YAML reads it": (
        {"fasta": [""], "model": "m"},
        "fasta: `-` is standard input, and sequences are read twice; write them to a file and "
        "name that.",
    ),
    "a number for a name": (
        {"fasta": "a.faa", "model": "m", "name": 7},
        "name is 7, but must be 1 to 200 letters, digits, `.`, `_` and `-` only, beginning with a "
        "letter or a digit, and not a number alone.",
    ),
    "a name with a blank": (
        {"fasta": "a.faa", "model": "m", "name": "my run"},
        "name is 'my run', but must be 1 to 200 letters, digits, `.`, `_` and `-` only, beginning "
        "with a letter or a digit, and not a number alone.",
    ),
    "Snakemake's own resources among the keys": (
        {"gpus": 2},
        "gpus is no key of the configuration. The number of GPUs is Snakemake's own: write "
        f"--resources gpu=2. {KEYS}",
    ),
    "Snakemake's cores among the keys": (
        {"cores": 2},
        f"cores is no key of the configuration. This is Snakemake's own: write --cores 4. {KEYS}",
    ),
    "another word for the sequences": (
        {"input": "a.faa"},
        f"input is no key of the configuration. The sequences are given as `fasta`. {KEYS}",
    ),
    "another word for the results": (
        {"OUTDIR": "out"},
        "OUTDIR is no key of the configuration. Results go to results/NAME of the folder that "
        f"--directory names; give `name`. {KEYS}",
    ),
    "a key in capitals": (
        {"FASTA": "a.faa"},
        f"FASTA is no key of the configuration. Did you mean fasta? {KEYS}",
    ),
    "a path for models": (
        {"models": "/data/m"},
        "models is '/data/m', but must be names of models, each with its folder or file after a "
        "colon, such as {my_esm: /data/my_esm}.",
    ),
}
