"""`snakemake report` makes reports on request; `snakemake --report` has those that are current."""

from __future__ import annotations

import os
import re
import zipfile
from pathlib import Path
from typing import Any

import h5py
import pytest
from driver import Outcome, Place, make_proteins, write_fasta

from seqembed.report.current import FIGURE_FILES
from seqembed.results.seal import read_seal, seal

NAMES = ("first", "second")
RESULT = "results/{}/embeddings.h5"
PAGE = "results/{}/report.html"
ONE = {"report": 1, "report_dataset": 1, "total": 2}
BOTH = {"report": 1, "report_dataset": 2, "total": 3}


def configure(place: Place, model: str, *names: str, **others: Any) -> None:
    usual = {"model": "esm2_random"}
    place.configure(
        datasets={name: {"fasta": f"{name}.faa"} | usual for name in names},
        models={"esm2_random": model},
        shards=1,
        device="cpu",
        **others,
    )


def list_report(place: Place, name: str) -> set[str]:
    """The names of the files of a dataset's report."""
    folder = place.folder / f"results/{name}"
    found = [folder / "report.html", *(folder / "report").glob("*")]
    return {path.name for path in found if path.exists()}


def of_result(place: Place, name: str) -> str:
    """The seal of the result that a report is of."""
    page = (place.folder / PAGE.format(name)).read_text()
    found = re.search('<meta name="seqembed-result" content="([^"]+)">', page)
    assert found
    return found[1]


def archive(place: Place) -> set[str]:
    """The results that `snakemake --report` puts into an archive, each as DATASET/FILE."""
    path = place.folder / "all.zip"
    outcome = place.run("--report", str(path))
    assert not outcome.jobs
    with zipfile.ZipFile(path) as content:
        content_of = {name: content.read(name) for name in content.namelist()}
    path.unlink()
    found = set()
    for name in NAMES:
        page = place.folder / PAGE.format(name)
        files = [page, *(page.parent / "report").glob("*")]
        for file in filter(Path.exists, files):
            if file.read_bytes() in content_of.values():
                found.add(f"{name}/{file.name}")
    return found


WHOLE = {"report.html", *FIGURE_FILES}


def all_of(*names: str) -> set[str]:
    return {f"{name}/{file}" for name in names for file in WHOLE}


@pytest.fixture(scope="module")
def embedded(open_place, model, tmp_path_factory) -> Place:
    """Two datasets that are embedded and have no report."""
    place = open_place(tmp_path_factory.mktemp("report") / "run")
    for number, name in enumerate(NAMES):
        write_fasta(place.folder / f"{name}.faa", make_proteins(8 + number, seed=number), "about")
    configure(place, model, *NAMES)
    outcome = place.run()
    assert outcome.computed == 17
    assert "report_dataset" not in outcome.jobs and "Report: " not in outcome.text
    return place


@pytest.fixture(scope="module")
def before(embedded) -> set[str]:
    """What `--report` contains before there is a report."""
    return archive(embedded)


@pytest.fixture(scope="module")
def made(embedded, before) -> Outcome:
    return embedded.run("report")


@pytest.fixture
def reported(embedded, made, tmp_path) -> Place:
    return embedded.copy_to(tmp_path / "run")


def test_before_a_report_is_made_snakemakes_has_none(before):
    assert before == set()


def test_a_report_has_a_page_and_figures_of_each_dataset(embedded, made):
    assert made.jobs == BOTH
    for name, count in zip(NAMES, (8, 9), strict=True):
        assert list_report(embedded, name) == WHOLE
        assert of_result(embedded, name) == read_seal(embedded.folder / RESULT.format(name))
        page = (embedded.folder / PAGE.format(name)).read_text()
        assert f"Every record has its embedding: {count} of {count}." in page
        assert "There is one shard, so nothing waited for another." in page
        path = embedded.folder / PAGE.format(name)
        assert f"\nReport: {path}\n" in made.text
        said = [line for line in made.said_by("report") if PAGE.format(name) in line]
        assert len(said) == 1 and f"the report of {count} rows, " in said[0]


def test_a_report_is_not_made_twice_nor_by_a_run_without_a_target(embedded, made):
    assert embedded.run("report").nothing_to_do
    assert embedded.plan().nothing_to_do


def test_snakemakes_report_has_the_pages_and_figures(embedded, made):
    assert archive(embedded) == all_of(*NAMES)
    path = embedded.folder / "all.html"
    embedded.run("--report", str(path))
    text = path.read_text()
    assert all(f"results/{name}/report.html" in text for name in NAMES)
    path.unlink()


def test_a_new_result_takes_the_report_of_the_old_one_away(reported, model):
    write_fasta(reported.folder / "first.faa", make_proteins(12, seed=0))
    outcome = reported.run()
    assert "report_dataset" not in outcome.jobs
    removed = "results/first: removed the report of an earlier result"
    assert any(removed in line for line in outcome.said_by("merge first"))
    assert not (reported.folder / PAGE.format("first")).exists()
    assert not (reported.folder / "results/first/report").exists()
    assert list_report(reported, "second") == WHOLE
    assert reported.plan().nothing_to_do
    assert archive(reported) == all_of("second")
    outcome = reported.run("report")
    assert outcome.jobs == ONE
    assert "12 of 12" in (reported.folder / PAGE.format("first")).read_text()
    assert archive(reported) == all_of(*NAMES)


def test_a_report_of_an_exchanged_result_is_left_out_and_made_again(reported):
    """A user puts another result in place of the first one."""
    result = reported.folder / RESULT.format("first")
    with h5py.File(result, "r+", locking=False) as file:
        file["embeddings"][0, 0] += 1
    seal(result)
    assert archive(reported) == all_of("second")
    outcome = reported.run("report")
    assert outcome.jobs == ONE
    assert of_result(reported, "first") == read_seal(result)


def test_a_report_without_one_of_its_figures_is_left_out_and_made_again(reported):
    (reported.folder / "results/second/report/norms.svg").unlink()
    assert archive(reported) == all_of("first")
    assert reported.run("report").jobs == ONE
    assert list_report(reported, "second") == WHOLE


def test_new_annotations_make_a_report_again(reported, model):
    table = reported.folder / "table.tsv"
    table.write_text("id\tkind\np0\tred\np1\tblue\n")
    configure(reported, model, *NAMES, exports={"annotations": str(table)})
    assert reported.run("report").jobs == BOTH
    assert '"name":"kind"' in (reported.folder / PAGE.format("first")).read_text()
    assert reported.plan("report").nothing_to_do
    # An older table takes its place, so that times alone would not tell.
    table.write_text("id\tshape\np0\tround\np1\tflat\n")
    os.utime(table, (1, 1))
    assert reported.plan("report").jobs == BOTH
    assert reported.plan().nothing_to_do
    # A report is made again only with its table, which Snakemake's own report need not have.
    table.unlink()
    assert archive(reported) == set()


def test_without_a_dataset_a_report_says_what_to_write(checkout, tmp_path):
    outcome = Place(checkout, tmp_path).run("report", ok=False)
    assert "`datasets` is empty, so there is nothing to embed." in outcome.text
