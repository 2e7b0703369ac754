"""Functions of common.smk, which need nothing of Snakemake but its type of error."""

from __future__ import annotations

import os
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from message_sites import read_rules
from snakemake.exceptions import WorkflowError

WILDCARDS = SimpleNamespace(dataset="mine", model="toy", export="uniprot_per_residue.h5")


@pytest.fixture
def rules() -> dict[str, Any]:
    """What the functions see: each other, and stand-ins for what Snakemake gives them."""
    shown = SimpleNamespace(show_failed_logs=False)
    names: dict[str, Any] = {"Path": Path, "os": os, "WorkflowError": WorkflowError}
    names |= {"contains_wildcard": lambda _: False, "local": str, "SETTINGS": {"models": {}}}
    names["workflow"] = SimpleNamespace(is_main_process=True, output_settings=shown)
    exec(compile(read_rules().tree, "common.smk", "exec"), names)
    names["explained"] = contextmanager(names["explained"])
    return names


def configure(
    rules: dict[str, Any], table: str | None = None, per_residue: bool = False, **others: Any
) -> SimpleNamespace:
    """Return the functions, which see one dataset, `mine`; others: functions to replace."""
    exports, request = SimpleNamespace(annotations=table), SimpleNamespace(per_residue=per_residue)
    rules["DATASETS"] = {"mine": SimpleNamespace(exports=exports, request=request)}
    rules.update(others)
    return SimpleNamespace(**rules)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("missing.tsv", "missing.tsv: `exports: {annotations: ...}` names this file, which is not"),
        (".", ".: `exports: {annotations: ...}` names this folder; give the path of a table"),
        ("x" * 300, "Dataset mine: [Errno 36] File name too long: "),
    ],
    ids=["missing", "folder", "long"],
)
def test_a_wrong_table_is_named(rules, table, message):
    common = configure(rules, table=table)
    for function in (common.get_annotations, common.get_annotation_times):
        with pytest.raises(WorkflowError) as caught:
            function(WILDCARDS)
        assert str(caught.value).startswith(message)


def test_a_table_replaced_by_an_older_one_of_its_size_is_another(rules, tmp_path):
    table = tmp_path / "table.tsv"
    table.write_text("id\n")
    common = configure(rules, table=str(table))
    before = common.get_annotation_times(WILDCARDS)
    assert before == common.get_annotation_times(WILDCARDS) and len(before) == 1
    os.utime(table, (1, 1))
    assert common.get_annotation_times(WILDCARDS) != before
    assert configure(rules).get_annotation_times(WILDCARDS) == []


def test_token_rows_are_exported_only_of_a_result_that_has_them(rules):
    with pytest.raises(WorkflowError, match="has no rows of residues; set `embedding: {per_"):
        configure(rules).get_exported(WILDCARDS)
    common = configure(rules, per_residue=True)
    assert common.get_exported(WILDCARDS) == "results/mine/embeddings.h5"


def test_a_model_whose_path_is_too_long_is_named(rules):
    common = configure(rules, get_model_source=lambda _: "x" * 300)
    with pytest.raises(WorkflowError, match=r"^models: toy: \[Errno 36\] File name too long"):
        common.get_model_files(WILDCARDS)


def test_a_run_whose_logs_have_no_error_says_where_to_look(rules):
    common = configure(rules, list_failures=lambda: ["  one"])
    assert common.describe_failure()[:2] == ["Not finished. These errors are in logs/:", "  one"]
    first, last = configure(rules, list_failures=list).describe_failure()
    assert first.startswith("Not finished. A program ended without an error in its log: it was")
    assert last.startswith("Finished work is kept")
