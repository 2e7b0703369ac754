"""A user's table of annotations, and the columns that embeddings.h5ad has of it."""

from __future__ import annotations

import gzip
import logging
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from exported import LOGGER, ODD, Exported, write_result

from seqembed.errors import ConfigError, ExportError, IndexFormatError
from seqembed.export.annotations import MOST_COLUMNS, read_annotations
from seqembed.export.h5ad import OWN_COLUMNS
from seqembed.results.seal import seal
from seqembed.results.writer import new_file


@pytest.fixture(scope="module")
def exported(tmp_path_factory) -> Exported:
    return write_result(tmp_path_factory.mktemp("exported"), tokens=False)


def write_table(folder: Path, content: str | bytes, name: str = "table.tsv") -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def read_column(obs: h5py.Group, name: str) -> list[Any]:
    """The values of a column of obs, None where one is missing."""
    column = obs[name]
    kind = column.attrs["encoding-type"]
    if kind == "categorical":
        texts = [*column["categories"].asstr()[:].tolist(), None]
        return [texts[code] for code in column["codes"][:]]
    if kind == "nullable-integer":
        pairs = zip(column["values"][:].tolist(), column["mask"][:], strict=True)
        return [None if missing else value for value, missing in pairs]
    if kind == "string-array":
        return column.asstr()[:].tolist()
    return [None if value != value else value for value in column[:].tolist()]


def annotate(exported: Exported, table: Path) -> dict[str, dict[str, Any]]:
    """Columns of the table in obs, each as the values that are not missing, by id."""
    with h5py.File(exported.export("embeddings.h5ad", table=table)) as file:
        obs = file["obs"]
        ids = obs["_index"].asstr()[:]
        own, others = obs.attrs["column-order"][:4], obs.attrs["column-order"][4:]
        assert tuple(own) == OWN_COLUMNS
        columns = {name: read_column(obs, name) for name in others}
    return {
        name: {key: value for key, value in zip(ids, found, strict=True) if value is not None}
        for name, found in columns.items()
    }


def test_obs_has_columns_of_the_index_and_the_result(exported):
    with h5py.File(exported.export("embeddings.h5ad")) as file:
        found = {name: read_column(file["obs"], name) for name in OWN_COLUMNS}
        assert file["obs"].attrs["column-order"].tolist() == list(OWN_COLUMNS)
        assert file["var/_index"].asstr()[:].tolist() == ["dim_0", "dim_1", "dim_2", "dim_3"]
    assert found["length"] == [len(text) for text in ODD.values()]
    assert set(found["file"]) == {str(exported.folder / "a.fasta")}
    assert found["description"] == [""] * len(ODD)
    with h5py.File(exported.result) as file:
        assert found["flags"] == file["flags"][:].tolist() and any(found["flags"])


@pytest.mark.parametrize("kind", ["tsv", "csv", "bom", "crlf", "gz", "quoted"])
def test_columns_are_found_by_id_whatever_the_kind_of_table(exported, tmp_path, kind):
    lines = ["id\tname\tcount", "NA\tsodium\t3", "é蛋🧬\tx y\t4", "a/b\tz\t5", "other\tw\t6"]
    text = "\n".join(lines) + "\n"
    contents = {
        "csv": text.replace("\t", ","),
        "bom": "\ufeff" + text,
        "crlf": text.replace("\n", "\r\n"),
        "quoted": text.replace("x y", '"x y"'),
    }
    content: str | bytes = contents.get(kind, text)
    if kind == "gz":
        content = gzip.compress(text.encode())
    table = write_table(tmp_path, content, "table.tsv.gz" if kind == "gz" else "table.txt")
    assert annotate(exported, table) == {
        "name": {"NA": "sodium", "é蛋🧬": "x y", "a/b": "z"},
        "count": {"NA": 3, "é蛋🧬": 4, "a/b": 5},
    }


def test_values_are_numbers_if_all_are_and_else_text(exported, tmp_path):
    rows = [
        "id\twhole\treal\ttext\tnone",
        "plain\t1\t1\tb\t",
        "NA\t\tNA\tnan\t",
        ".\t-3\t2.5\ta\tNA",
    ]
    found = annotate(exported, write_table(tmp_path, "\n".join(rows)))
    assert found == {
        "whole": {"plain": 1, ".": -3},
        "real": {"plain": 1.0, ".": 2.5},
        "text": {"plain": "b", ".": "a"},
        "none": {},
    }


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        (["7", "-12", "0", "NA"], "int64"),
        (["0.5", "-.5", "1e-5", "1.5E10", "7"], "double"),
        (["007", "12"], "string"),
        (["0x10", "12"], "string"),
        (["1E10", "2E11"], "string"),
        (["99999999999999999999", "1"], "string"),
        (["12345678901234567", "1.5"], "string"),
        (["1.2.3", "1.2"], "string"),
        (["-", "1"], "string"),
    ],
)
def test_only_plain_numbers_become_numbers(tmp_path, values, kind):
    rows = [f"s{row}\t{value}" for row, value in enumerate(values)]
    table = write_table(tmp_path, "\n".join(["id\tx", *rows]) + "\n")
    column = read_annotations(str(table), OWN_COLUMNS).columns["x"]
    assert str(column.type) == kind
    if kind == "string":
        assert column.to_pylist() == values


def test_an_attribute_holds_the_names_of_the_most_columns(tmp_path):
    names = [*OWN_COLUMNS, *(f"a column with a long name, number {n}" for n in range(MOST_COLUMNS))]
    path = tmp_path / "names.h5"
    with new_file(path, path) as file:
        file.attrs["column-order"] = names
        assert file.attrs["column-order"].tolist() == names


def test_a_table_separated_by_commas_may_have_a_line_break_in_quotes(exported, tmp_path):
    table = write_table(tmp_path, 'id,note\nNA,"two\nlines"\n', "table.csv")
    assert annotate(exported, table) == {"note": {"NA": "two\nlines"}}


def test_a_table_of_all_ids_has_whole_numbers_without_a_mask(exported, tmp_path):
    rows = [f"{name}\t{row}" for row, name in enumerate(reversed(ODD))]
    table = write_table(tmp_path, "\n".join(["sequence_id\trank", *rows]))
    with h5py.File(exported.export("embeddings.h5ad", table=table)) as file:
        assert file["obs/rank"][:].tolist() == [*range(len(ODD))][::-1]


def test_categories_are_sorted_and_only_those_that_are_used(exported, tmp_path):
    rows = ["id\tkind", "a/b\tred", "plain\tblue", "other\tgreen", "NA\tred"]
    table = write_table(tmp_path, "\n".join(rows))
    with h5py.File(exported.export("embeddings.h5ad", table=table)) as file:
        assert file["obs/kind/categories"].asstr()[:].tolist() == ["blue", "red"]


@pytest.mark.parametrize(
    ("rows", "level", "message"),
    [
        (["plain\t1", "x\t2"], "INFO", "1 of 13 ids have annotations; 1 of its ids are not in the"),
        (["x\t2"], "WARNING", "0 of 13 ids have annotations; 1 of its ids are not in the result"),
        ([], "WARNING", "0 of 13 ids have annotations; 0 of its ids"),
    ],
)
def test_the_log_counts_ids_that_match(exported, tmp_path, caplog, rows, level, message):
    table = write_table(tmp_path, "\n".join(["id\tn", *rows]) + "\n")
    with caplog.at_level(logging.INFO, LOGGER.name):
        annotate(exported, table)
    (record,) = [record for record in caplog.records if str(table) in record.message]
    assert message in record.message and record.levelname == level


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("name\tkind\na\tb\n", "has no column `id`, only 'name', 'kind'; name its column of ids"),
        ("id\tn\na\t1\nb\t2\na\t3\n", "repeats 1 id, such as 'a'; keep one row"),
        ("id\tn\tn\na\t1\t2\n", "the column 'n' is there twice; rename it"),
        (
            "id\tlength\na\t1\n",
            "the column 'length' has the name of a column that the export makes",
        ),
        ("id\tx/y\na\t1\n", "the column 'x/y' has a name that an AnnData file cannot hold"),
        ("id\t\na\t1\n", "the column '' has a name that"),
        ("id\tn\na\t1\t2\n", "cannot be read as a table of text"),
        (
            b"id\tn\na\t\xff\n",
            "cannot be read as a table of text .*; save it as UTF-8 text, TSV or",
        ),
        ("id\tgröße\na\t1\n".encode("latin-1"), "cannot be read as a table of text .*; save it as"),
        (b"PK\x03\x04\0\0\0", "cannot be read as a table of text"),
        ("id\tn\na\tx\0y\n", "cannot be read as a table of text .*it holds NUL bytes"),
        ('id\tn\na\t"x\nb\t2\nc\t"y"\n', "a quote is not closed before 'x' ends its line"),
        ('id\tn\na\t"x\nb\ty\n', "a quote is not closed|cannot be read as a table of text"),
        ('"id\tn\na\tx\n', "cannot be read as a table of text"),
        (
            "\t".join(["id", *(f"c{n}" for n in range(4000))]) + "\n",
            "has 4,001 columns, and an AnnData file holds 4,000 of a table; leave some out",
        ),
        ("", "cannot be read as a table of text"),
    ],
)
def test_a_wrong_table_is_refused_before_the_result_is_read(exported, tmp_path, content, message):
    table = write_table(tmp_path, content)
    with pytest.raises(ConfigError, match=message) as caught:
        exported.export("embeddings.h5ad", table=table)
    assert str(caught.value).startswith(f"{table}: ")
    with pytest.raises(ConfigError, match=message):
        read_annotations(str(table), OWN_COLUMNS)


def test_a_missing_table_is_refused(exported, tmp_path):
    with pytest.raises(ConfigError, match=r"missing.tsv: cannot be read as a table"):
        exported.export("embeddings.h5ad", table=tmp_path / "missing.tsv")


def test_an_index_of_other_sequences_is_refused(tmp_path):
    made = write_result(tmp_path)
    other = write_result(tmp_path / "other", {"plain": "MKV"})
    (other.folder / "index.parquet").replace(tmp_path / "index.parquet")
    with pytest.raises(ExportError, match="is of other sequences than .*index.parquet; run"):
        made.export("embeddings.h5ad")
    own = write_result(tmp_path)
    with h5py.File(own.result, "r+") as file:
        file["sequence_ids"][1] = "another"
    seal(own.result)
    with pytest.raises(ExportError, match="is of other sequences than"):
        own.export("embeddings.h5ad")
    (tmp_path / "index.parquet").write_bytes(b"no Parquet")
    with pytest.raises(IndexFormatError, match="index.parquet"):
        made.export("embeddings.h5ad")
    assert np.load(made.export("embeddings.npy")).shape == (13, 4)
