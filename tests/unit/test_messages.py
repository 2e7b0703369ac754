"""docs/messages.md has every message that a user can cause, in the program's words, each tested."""

from __future__ import annotations

import ast
import inspect
from pathlib import Path

import pytest
import snakemake.exceptions
from message_sites import ROOT, all_words, holds, modules, plain, sites
from test_documents import tables

from seqembed.models.weights.layout import SUPPORTED

ROWS = [row for rows in tables(ROOT / "docs/messages.md").values() for row in rows]
# What the page writes out, and the program puts together.
IN_CODE = {plain(SUPPORTED): "only ... are supported"}
# Snakemake says these.
SNAKEMAKES = ["Directory cannot be locked", "No rule to produce"]
SNAPSHOTS = sorted((ROOT / "tests/faults/messages").glob("*.txt"))
OWN = {Path(__file__).name, "message_sites.py"}

# Messages without a row, and why they need none.
INTERNAL = {
    "the options of a program; the rules give the right ones": [
        "the world size must be at least 1",
        "a key is missing or not known",
        "model_config lacks the key",
        "must be ... , not",
        "per_residue must be true or false",
        "layer ... is not one of 0 to",
        "is not one of the families",
    ],
    "a mistake in a program of the user's own, which Python shows with its place": [
        "write a list of ids, not",
        "write an id, which is text",
        "an id is text, not",
        "a chunk has at least 1 row",
    ],
    "in brackets in `set aside as` or `damaged`: what is wrong with a file of a checkpoint": [
        "its checksum does not match",
        "not uint8 of shape",
        "not float32 or float16",
        "for ... digests,",
        "its batch numbers",
        "its format version",
        "not a whole number of at least 1",
        "its token rows",
    ],
    "the reason behind `is not reused`, `are made anew` and `rows were taken from it`": [
        "is not an embeddings.h5",
        "its recipe has settings that this version does not know",
        "has no recipe that this version knows",
        "it is of another recipe",
        "its file system has no links",
        "another file has taken its place",
    ],
    "refuses a fault of the program before it writes a file": [
        "got ... run again",
        "a slab has",
        "values a row, not",
        "the offsets do not cut",
    ],
}
# Statements that pass on messages which are made elsewhere.
PASSED_ON = {
    "rules/common.smk, explained": "puts a beginning before an error",
    "scripts/index.py, index: ('%s', summary)": "`the model does not know`",
    "scripts/seqembed/checkpoints/find_sources.py, _add_result: ShardError": "`is not reused`",
    "scripts/seqembed/fasta/reader.py, _refuse_faults": "faults of records, in the snapshots",
    "scripts/seqembed/gpu_worker.py, _report_error": "the supervisor's message follows",
    "scripts/seqembed/models/prepared.py, require": "`changed since it was prepared`",
    "scripts/seqembed/models/weights/layout.py, find_encoder": "a table, in the snapshots",
    "scripts/seqembed/errors.py, named": "puts a path before an error",
    "scripts/seqembed/verify/verify.py, verify: FileFormatError(f'{path}: {problem}')": "the same",
    "scripts/verify.py, verify_files: ('%s', error)": "logs an error",
    "scripts/seqembed/checkpoints/reused_rows.py, open_reused": "`rows were taken from it, but`",
    "scripts/seqembed/index/sources.py, read_sources": "`what split found is not taken`",
    "scripts/seqembed/command_line.py, run: (": "logs an error",
    "scripts/seqembed/look/unprepared.py, _index: ('%s', summary)": "`the model does not know`",
    "scripts/seqembed/export/described.py, read_described": "`is of other sequences than`",
    "scripts/seqembed/reading/result.py, _rows_of": "`no row has the id`",
}


def phrases(row: list[str]) -> list[str]:
    return [IN_CODE.get(phrase, phrase) for phrase in plain(row[0]).split(" / ")]


PAGE = [phrase for row in ROWS for phrase in phrases(row)]
INNER = [phrase for listed in INTERNAL.values() for phrase in listed]
CODE = all_words(module.tree for module in modules())


def test_every_phrase_is_in_the_code():
    source = inspect.getsource(snakemake.exceptions)
    assert all(phrase in source for phrase in SNAKEMAKES)
    found = [phrase for phrase in [*PAGE, *INNER] if not holds(CODE, phrase)]
    assert found == SNAKEMAKES


def test_every_error_and_warning_has_a_row_or_a_reason():
    found = sites()
    assert len(found) > 250
    left = [site for site in found if not any(map(site.says, [*PAGE, *INNER]))]
    passing = {start for start in PASSED_ON for site in found if site.place.startswith(start)}
    assert passing == set(PASSED_ON)
    missing = [site.place for site in left if not site.place.startswith(tuple(PASSED_ON))]
    assert not missing, "write a row into docs/messages.md for each of these"


@pytest.mark.parametrize("path", SNAPSHOTS, ids=lambda path: path.stem)
def test_every_message_of_the_snapshots_has_a_row(path):
    cases = path.read_text(encoding="utf-8").removeprefix("# ").split("\n# ")
    messages = [plain(case.partition("\n")[2]) for case in cases]
    assert len(messages) > 50
    assert not [text for text in messages if not any(holds(text, phrase) for phrase in PAGE)]


def is_tested(phrase: str, tests: str) -> bool:
    """Whether the tests have three successive words of the phrase, or all if there are fewer."""
    for words in map(str.split, phrase.split(" ... ")):
        parts = [" ".join(words[n : n + 3]) for n in range(max(1, len(words) - 2))]
        if any(part in tests for part in parts):
            return True
    return False


def test_every_row_has_a_test():
    files = [path for path in sorted(ROOT.glob("tests/**/*.py")) if path.name not in OWN]
    tests = all_words(ast.parse(path.read_text(encoding="utf-8")) for path in files)
    snapshots = (plain(line) for path in SNAPSHOTS for line in path.read_text().splitlines())
    tests = "\n".join([tests, *snapshots])
    untested = [row[0] for row in ROWS if not any(is_tested(p, tests) for p in phrases(row))]
    assert not untested
