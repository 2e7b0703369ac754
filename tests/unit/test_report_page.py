"""Reports of awkward results: few rows, equal rows, no rows, and texts that a page must not run."""

from __future__ import annotations

import base64
import json
import re
from dataclasses import replace
from hashlib import sha256
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from described_models import dna_model, protein_model, t5_model
from reported import LOGGER, Reported, write_report, write_sources

from seqembed import __version__
from seqembed.errors import ExportError
from seqembed.index.parquet import read_metadata
from seqembed.models.prepared import PreparedModel, write_prepared
from seqembed.report.findings import Sources, read_findings
from seqembed.report.map import find_components, lay_out
from seqembed.report.map_figure import MISSING, OTHER, Colouring, make_colouring
from seqembed.report.methods import AUTHORS, TITLE, write_methods
from seqembed.report.report import make_report
from seqembed.report.sample import LONGEST_TEXT
from seqembed.worker.events import EventLog

SCRIPT, IMAGE = "<script>alert(1)</script>", "<img src=x onerror=alert(1)>"
# A sequence that workers could not embed.
FAILED = "WWWW"
THREE = {"a": "MKV", "b": "MKVA", "c": "WE"}
COMMON = {"source": "esm2_t6_8M_UR50D", "max_length": 1022}


def random_rows(count: int, width: int = 8, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, width)).astype(np.float32)


def proteins(count: int) -> dict[str, str]:
    """Proteins that all differ, by id."""
    return {f"s{number}": "MKV" + "A" * number for number in range(count)}


# Records, their rows, and why sequences have none.
AWKWARD: dict[str, tuple[dict[str, str], Any, dict[str, str]]] = {
    "one row": ({"a": "MKV"}, [[1, 2]], {}),
    "two equal sequences": ({"a": "MKV", "b": "MKV"}, [[1, 2], [1, 2]], {}),
    "two rows": ({"a": "MKV", "b": "WE"}, [[1, 2], [2, 1]], {}),
    "all rows equal": (THREE, np.full((3, 4), 0.1), {}),
    "one value a row": (THREE, [[1], [2], [4]], {}),
    "no row": ({"a": "MJ", "b": FAILED, "c": FAILED}, np.empty((0, 4)), {FAILED: "too long"}),
    "a row of zeros": (THREE, [[0, 0], [1, 2], [2, 1]], {}),
    "zeros only": (THREE, np.zeros((3, 2)), {}),
    "not finite": (THREE, [[np.nan, 0], [np.inf, 1], [2, 1]], {}),
    "nothing finite": (THREE, np.full((3, 2), np.nan), {}),
    "large and small": (THREE, [[1e20, 0], [1e-30, 1e-30], [2, 1]], {}),
}


@pytest.fixture(scope="module")
def awkward(tmp_path_factory) -> dict[str, Reported]:
    return {
        name: write_report(
            write_sources(tmp_path_factory.mktemp("awkward"), records, rows, failed=failed)
        )
        for name, (records, rows, failed) in AWKWARD.items()
    }


@pytest.mark.parametrize("name", AWKWARD)
def test_awkward_results_have_a_report_with_all_figures(awkward, name):
    records, rows, failed = AWKWARD[name]
    found, count = awkward[name], len(rows)
    files = {path.name for path in (found.folder / "report").iterdir()}
    assert files == {f"{n}.svg" for n in ("phases", "speeds", "lengths", "norms", "neighbours")} | {
        "map.png"
    }
    assert f"{count} sequence{'s' * (count != 1)} of 1 file" in found.text
    assert ("Every record has its embedding" in found.text) == (count == len(records))
    json.dumps([found.figures, found.points], allow_nan=False)


@pytest.mark.parametrize(
    ("name", "drawn", "points"),
    [
        ("one row", {"lengths", "norms"}, 0),
        ("two equal sequences", {"lengths", "norms"}, 2),
        ("two rows", {"lengths", "norms", "neighbours"}, 2),
        ("all rows equal", {"lengths", "norms"}, 3),
        ("one value a row", {"lengths", "norms", "neighbours"}, 3),
        ("no row", set(), 0),
        ("a row of zeros", {"lengths", "norms", "neighbours"}, 3),
        ("zeros only", {"lengths", "norms"}, 3),
        ("not finite", {"lengths"}, 0),
        ("nothing finite", {"lengths"}, 0),
        ("large and small", {"lengths", "norms", "neighbours"}, 2),
    ],
)
def test_a_figure_is_drawn_if_there_is_something_for_it(awkward, name, drawn, points):
    found = awkward[name]
    assert set(found.figures["charts"]) == drawn
    assert len(found.points.get("ids", [])) == points
    assert bool(found.figures["maps"]) == bool(points)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("one row", "A map needs two rows at least"),
        ("one row", "There are no two rows of different sequences that differ"),
        ("two equal sequences", "1 of these repeats the sequence of an earlier record"),
        ("two equal sequences", "Sequences with more than one id first id ids a 2"),
        ("all rows equal", "It shows all 3 rows."),
        (
            "all rows equal",
            "The norms of the 3 rows go from 0.2, of a, to 0.2, of a, with a median of 0.2.",
        ),
        ("no row", "▲ 3 records of 3 have no embedding."),
        (
            "no row",
            "1 was left out: it holds letters that the model does not know. 2 could",
        ),
        ("no row", "So no record has a row in embeddings.h5."),
        ("no row", "There is no row, so there is no length to show."),
        ("a row of zeros", "1 row of zeros only."),
        ("not finite", "2 rows with values that are not finite. They are not on the map."),
        ("nothing finite", "Some rows hold values that are not finite"),
    ],
)
def test_the_page_says_what_is_awkward(awkward, name, said):
    assert said in awkward[name].text


def test_equal_rows_lie_at_one_place(awkward):
    for name in ("two equal sequences", "all rows equal", "zeros only"):
        assert set(map(tuple, awkward[name].points["layouts"][0])) == {
            (0.0,) * len(AWKWARD[name][1])
        }


@pytest.fixture(scope="module")
def mixed(tmp_path_factory) -> Reported:
    """Flags, repeats, and records without a row."""
    records = {"a": "MKV", "b": "WE", "c": "MKV", "d": "AC", "e": "MKV", "f": "WE", "g": "MKL"}
    records |= {"skipped": "MJ", "failed": FAILED, "again": FAILED}
    rows = random_rows(5)[[0, 1, 0, 2, 0, 1, 3]]
    flags = [1, 0, 1, 6, 1, 0, 4]
    folder = tmp_path_factory.mktemp("mixed")
    failed = {FAILED: "too long"}
    return write_report(write_sources(folder, records, rows, flags=flags, failed=failed))


@pytest.mark.parametrize(
    "said",
    [
        "The FASTA file holds 10 records. 1 was left out: it holds letters that the model does not "
        "know. 2 could not be embedded by the model. All others have a row in embeddings.h5: 7. 3 "
        "of these repeat the sequence of an earlier record, so 4 distinct sequences were embedded.",
        "with a row 7 left out for unknown letters 1 failed in the model 2 records in all 10",
        "3 records without an embedding. The most frequent reason, of 2 records: too long",
        "Ids without an embedding (all are in quarantine.tsv) id reason skipped",
        "failed too long again too long",
        "1 sequence truncated.",
        "2 rows computed again.",
        "3 sequences windowed.",
        "3 duplicates.",
        "first id ids a 3 b 2",
        "Embeddings of 7 sequences (4 distinct) were computed with the model toy",
        "3 more records could not be embedded.",
    ],
)
def test_counts_add_up_in_words(mixed, said):
    assert said in mixed.text


def test_points_have_flags_lengths_and_files(mixed):
    details = mixed.points["details"]
    assert mixed.points["ids"] == list("abcdefg")
    assert details["length"] == [3, 2, 3, 2, 3, 2, 3]
    flags = ["windowed", "none", "windowed", "truncated, fp32 again", "windowed", "none"]
    assert details["flags"] == [*flags, "fp32 again"]
    assert set(details["file"]) == {"input.faa"}
    # A file that all points share tells none apart.
    assert [one["name"] for one in mixed.figures["colourings"]] == ["length", "flags"]


class Scripts(HTMLParser):
    """The scripts of a page by their type, and its elements and attributes, as a browser reads."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.scripts: list[tuple[str | None, str]] = []
        self.elements: set[str] = set()
        self.attributes: dict[str, set[str | None]] = {}
        self._inside = False
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.elements.add(tag)
        for name, value in attrs:
            self.attributes.setdefault(name, set()).add(value)
        self._inside = tag == "script"
        if self._inside:
            self.scripts.append((dict(attrs).get("type"), ""))

    def handle_data(self, data: str) -> None:
        if self._inside:
            kind, text = self.scripts[-1]
            self.scripts[-1] = (kind, text + data)

    def handle_endtag(self, tag: str) -> None:
        self._inside = False


@pytest.fixture(scope="module")
def hostile(tmp_path_factory) -> Reported:
    """Markup in every text that is not ours."""
    folder = tmp_path_factory.mktemp("hostile")
    records = {f"{SCRIPT} </script>{IMAGE}": "MKV", f"b{IMAGE.replace(' ', '')}": "MKV"}
    records |= {"c": "WE", "skipped</script>": "MJ", f"f{SCRIPT}": FAILED}
    table = folder / "table.tsv"
    table.write_text(f"id\t{IMAGE}\n{SCRIPT}\t{IMAGE}\nc\t</script><!--\n")
    sources = write_sources(
        folder,
        records,
        random_rows(3),
        failed={FAILED: f"why {SCRIPT}"},
        annotations=table,
        model=f"toy{SCRIPT}",
    )
    shard = read_fingerprint(sources)
    log = EventLog(folder / "logs/demo/worker_0.events.jsonl", iter(range(9)).__next__)
    log.append("begin")
    fields = {"recipe": "r" * 16, "shard": shard, "sequences": 2, "tokens": 9}
    where = {"host": SCRIPT, "device": "cpu", "device_name": IMAGE}
    log.append("start", done=0, done_tokens=0, **fields, **where)
    log.append("restart", reason=f"killed {SCRIPT}")
    log.append("end", status="failed", reason=f"</script>{IMAGE}")
    return write_report(sources, {"layer": SCRIPT})


def read_fingerprint(sources: Sources) -> str:
    metadata = read_metadata(sources.index.parent / "index/shard_0.parquet", "shard")
    return str(metadata["fingerprint"])


def test_texts_of_others_are_shown_and_not_run(hostile):
    found = Scripts(hostile.page)
    kinds = [kind for kind, _ in found.scripts]
    assert kinds == ["application/json", "text/plain", None, None]
    assert "img" not in found.elements
    assert not [name for name in found.attributes if name.startswith("on")]
    assert not {"src", "srcdoc"} & set(found.attributes)
    assert all(str(link).startswith("#") for link in found.attributes["href"])
    for said in (
        f"f{SCRIPT} why {SCRIPT}",
        f"toy{SCRIPT}",
        f"restart killed {SCRIPT}",
        f"failed </script>{IMAGE}",
        f"{IMAGE} on {SCRIPT}",
        f"layer {SCRIPT}",
        f"first id ids {SCRIPT} 2",
    ):
        assert said in hostile.text


def test_texts_of_others_are_whole_in_the_data_of_figures(hostile):
    points = hostile.points
    assert points["ids"][0] == SCRIPT
    assert points["descriptions"][0] == f"</script>{IMAGE}"
    assert points["details"][f"{IMAGE}"] == [IMAGE, None, "</script><!--"]
    own = {"length", "file", "flags"}
    (table,) = (c for c in hostile.figures["colourings"] if c["name"] not in own)
    assert set(table["classes"]) == {IMAGE, "</script><!--", MISSING}


def test_the_policy_allows_the_pages_own_scripts_alone(hostile):
    found = Scripts(hostile.page)
    own = [text for kind, text in found.scripts if kind is None]
    hashes = [base64.b64encode(sha256(text.encode()).digest()).decode() for text in own]
    (policy,) = (text for text in found.attributes["content"] if "default-src" in str(text))
    assert re.findall(r"'sha256-([^']+)'", str(policy)) == hashes
    assert str(policy).startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe-inline" not in str(policy).partition("style-src")[0]


def test_long_texts_are_cut(tmp_path):
    long = "x" * 1000
    records = {f"{long} {'about ' * 20_000}": "MKV", f"{long}2": "MKV", "b": "WE"}
    table = tmp_path / "table.tsv"
    table.write_text(f"id\tnote\n{long}\t{'note ' * 20_000}\n")
    sources = write_sources(tmp_path, records, random_rows(3), annotations=table)
    found = write_report(sources, figures=False)
    points = found.points
    texts = (points["ids"][0], points["descriptions"][0], points["details"]["note"][0])
    assert [len(text) for text in texts] == [LONGEST_TEXT] * 3
    assert all(text.endswith("…") for text in texts)
    assert points["details"]["note"][1:] == [None, None]
    assert f"first id ids {'x' * 199}… 2" in found.text
    assert "x" * LONGEST_TEXT not in found.page
    assert len(found.page) < 1_500_000


def test_a_number_that_json_cannot_hold_is_a_text(tmp_path):
    table = tmp_path / "table.tsv"
    table.write_text("id\tx\ns0\t1e999\ns1\t0.5\n")
    sources = write_sources(tmp_path, proteins(3), random_rows(3), annotations=table)
    assert list(read_findings(sources).details["x"]) == ["1e999", "0.5", None]


def test_the_same_inputs_give_the_same_bytes(tmp_path):
    sources = write_sources(tmp_path, proteins(30), random_rows(30))
    first = write_report(sources)
    figures = {path.name: path.read_bytes() for path in (first.folder / "report").iterdir()}
    assert write_report(sources).page == first.page
    again = {path.name: path.read_bytes() for path in (first.folder / "report").iterdir()}
    assert again == figures


def test_a_report_of_rows_in_float16(tmp_path):
    sources = write_sources(tmp_path, THREE, storage="float16")
    assert "and stored as float16." in write_report(sources).text


def refuse(sources: Sources, message: str, error: type[Exception] = ExportError) -> None:
    page = sources.result.with_name("report.html")
    page.write_text("an earlier report")
    with pytest.raises(error, match=message):
        make_report(sources, page, [], {}, LOGGER)
    assert page.read_text() == "an earlier report"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            "sequence_id\treason\n",
            "4 records are in .*, 3 rows here, and 0 ids in .*tsv, which do not add up",
        ),
        ("sequence_id\treason\nd\tx\ne\tx\n", "3 rows here, and 2 ids in .*; run the workflow"),
        ("d\tx\n", "quarantine.tsv: has no header; remove it, and run the workflow again"),
        ("", "quarantine.tsv: has no header"),
    ],
)
def test_a_quarantine_that_does_not_add_up_is_refused(tmp_path, content, message):
    sources = write_sources(tmp_path, THREE | {"d": FAILED}, failed={FAILED: "too long"})
    sources.quarantine.write_text(content)
    refuse(sources, message)


def test_a_missing_quarantine_is_named(tmp_path):
    sources = write_sources(tmp_path, THREE)
    sources.quarantine.unlink()
    refuse(sources, "quarantine.tsv", OSError)


def test_an_index_of_other_sequences_is_refused(tmp_path):
    sources = write_sources(tmp_path / "first", THREE)
    other = write_sources(tmp_path / "second", {"a": "MKV"})
    other.index.replace(sources.index)
    refuse(sources, "embeddings.h5: is of other sequences than .*index.parquet; run the workflow")


def test_a_shard_is_refused(tmp_path):
    sources = write_sources(tmp_path, THREE, kind="shard")
    refuse(sources, "is not a whole result; name the dataset's embeddings.h5")


@pytest.mark.parametrize(("count", "width"), [(40, 12), (12, 40), (3, 3), (2, 5)])
def test_components_are_those_of_a_singular_value_decomposition(count, width):
    rows = random_rows(count, width) * np.arange(1, width + 1, dtype=np.float32) + 3
    places, shares = find_components(rows, 5)
    centred = rows.astype(np.float64) - rows.mean(0, dtype=np.float64)
    u, s, _ = np.linalg.svd(centred, full_matrices=False)
    # Centred rows have one dimension less.
    known = min(5, count - 1, width)
    expected = (u * s)[:, :known]
    signs = np.sign((expected * places[:, :known]).sum(0))
    assert places[:, :known] == pytest.approx(expected * signs, rel=1e-3, abs=1e-3)
    assert shares[:known] == pytest.approx(s[:known] ** 2 / (s**2).sum(), rel=1e-4)
    assert not places[:, known:].any() and not shares[known:].any()


def test_each_component_has_a_positive_largest_weight_in_any_order_of_rows():
    rows = random_rows(50, 10)
    places, _ = find_components(rows, 4)
    # Least squares give back the weights of the components, which are orthogonal.
    weights = np.linalg.lstsq(places, rows - rows.mean(0), rcond=None)[0]
    largest = np.abs(weights).argmax(1)
    assert (weights[np.arange(4), largest] > 0).all()
    order = np.random.default_rng(2).permutation(50)
    assert find_components(rows[order], 4)[0] == pytest.approx(places[order], abs=1e-4)
    assert find_components(-rows, 4)[0] == pytest.approx(
        -places * signs_of(-rows, places), abs=1e-4
    )


def signs_of(rows: np.ndarray, places: np.ndarray) -> np.ndarray:
    """1 for each component whose sign changes with that of the rows, -1 for others."""
    return np.sign((find_components(rows, 4)[0] * -places).sum(0))


def test_without_umap_or_with_few_rows_there_is_one_map():
    assert list(lay_out(random_rows(19))) == ["PCA"]
    assert list(lay_out(np.ones((30, 4), np.float32))) == ["PCA"]


def test_umap_gives_the_same_map_each_time():
    pytest.importorskip("umap")
    rows = random_rows(60)
    first, again = lay_out(rows)["UMAP"].places, lay_out(rows)["UMAP"].places
    assert first.shape == (60, 2) and np.isfinite(first).all()
    assert np.array_equal(first, again)


def test_near_duplicates_are_found_and_equal_sequences_are_none(tmp_path):
    rows = random_rows(30, 32)
    rows[20] = rows[10] * 1.001
    records = proteins(30) | {"s7": "MKVA"}
    rows[7] = rows[1]
    sources = write_sources(tmp_path, records, rows)
    found = read_findings(sources).neighbours
    assert found is not None and len(found.cosines) == 29
    ((first, first_length, second, second_length, cosine),) = found.pairs
    assert (first, first_length, second, second_length) == ("s10", 13, "s20", 23)
    assert 0.999 < cosine <= 1
    assert found.near == 2
    text = write_report(sources, figures=False).text
    assert (
        "Among all 29 different sequences, 2 have a nearest neighbour at a cosine of 0.99" in text
    )
    assert re.search(
        r"different sequences among those compared id .* s10 13 s20 23 (0\.999\d\d|1\.00000) ",
        text,
    )


def test_nearest_rows_are_those_of_the_plain_formula(tmp_path):
    rows = random_rows(25, 6)
    found = read_findings(write_sources(tmp_path, proteins(25), rows)).neighbours
    centred = rows - rows.mean(0)
    centred /= np.linalg.norm(centred, axis=1, keepdims=True)
    cosines = centred @ centred.T
    np.fill_diagonal(cosines, -2)
    assert found is not None
    assert found.cosines == pytest.approx(cosines.max(1), abs=1e-5)


def classes_of(colouring: Colouring) -> list[str]:
    """The class of each point."""
    names = list(colouring.classes)
    return [names[code] for code in colouring.codes]


@pytest.mark.parametrize("name", ["C:\\users", 'a\\"', "a\\u", "`${x}`", "a\nb", "var(--ink)"])
def test_a_column_of_any_name_colours_the_map(name, tmp_path):
    table = tmp_path / "table.csv"
    column = '"{}"'.format(name.replace('"', '""'))
    table.write_text(f'id,{column}\ns0,x\ns1,"var(--foo)"\ns2,"var(--ink)"\n')
    records = {f"s{n}": text for n, text in enumerate(("MKVA", "MKVC", "MKVD"))}
    made = write_report(write_sources(tmp_path, records, random_rows(3), annotations=table))
    (colouring,) = made.figures["colourings"]
    assert colouring["name"] == name
    assert set(colouring["classes"]) == {"x", "var(--foo)", "var(--ink)"}


def test_an_infinite_number_of_a_table_is_no_value(tmp_path):
    table = tmp_path / "table.tsv"
    table.write_text("id\tx\ns0\t1e+999\ns1\t1\ns2\t2\n")
    made = write_report(write_sources(tmp_path, proteins(3), random_rows(3), annotations=table))
    assert made.points["details"]["x"] == [None, 1, 2]


def test_a_reason_of_any_text_leaves_the_figure_whole(tmp_path):
    sources = write_sources(tmp_path, THREE)
    log = EventLog(tmp_path / "logs/demo/worker_0.events.jsonl", iter(range(9)).__next__)
    log.append("begin")
    where = {"host": "h", "device": "cpu", "device_name": ""}
    fields = {"recipe": "r" * 16, "shard": read_fingerprint(sources), "sequences": 2, "tokens": 9}
    log.append("start", done=0, done_tokens=0, **fields, **where)
    log.append("restart", reason='killed \x1b[0m \0 \ud800 <b> & "quoted"')
    log.append("end", status="complete")
    made = write_report(sources)
    text = (made.folder / "report/speeds.svg").read_text("utf-8")
    assert ElementTree.fromstring(text).tag.endswith("svg") and "restart" in text


def test_wide_rows_have_the_components_of_a_singular_value_decomposition():
    choice = np.random.default_rng(5)
    rows = choice.normal(size=(300, 200)) * np.geomspace(30, 0.1, 200)
    rows = (rows @ np.linalg.qr(choice.normal(size=(200, 200)))[0] + 3).astype(np.float32)
    places, shares = find_components(rows, 50)
    left, values, _ = np.linalg.svd(rows - rows.mean(0), full_matrices=False)
    assert np.allclose(np.abs(places), np.abs(left * values)[:, :50], atol=2e-2)
    assert np.allclose(shares, (values**2 / (values**2).sum())[:50], rtol=1e-3)


def test_seven_texts_have_a_colour_each_and_of_more_the_rarest_share_one():
    seven = [*"abcdefg", "a", None]
    found = make_colouring("x", seven)
    assert classes_of(found) == [*"abcdefg", "a", MISSING]
    assert len(set(found.classes.values())) == 8
    eight = [*"abcdefgh", *"abcdef"]
    found = make_colouring("x", eight)
    assert classes_of(found) == [*"abcdef", OTHER, OTHER, *"abcdef"]
    assert found.classes["a"] == "var(--c1)"


def test_few_numbers_have_a_colour_each_and_many_are_in_classes_of_equal_size():
    assert classes_of(make_colouring("x", [3, 1, 2, None])) == ["3", "1", "2", MISSING]
    assert list(make_colouring("x", [3, 1, 2]).classes) == ["1", "2", "3"]
    found = make_colouring("x", [*range(70), None])
    names = classes_of(found)
    assert names[-1] == MISSING
    sizes = [names.count(name) for name in found.classes if name != MISSING]
    assert len(sizes) == 7 and max(sizes) - min(sizes) <= 2
    assert names[0].startswith("0 to ") and names[69].endswith(" to 69")


def test_numbers_with_ties_are_in_fewer_classes_each_with_a_value():
    found = make_colouring("x", [0] * 50 + list(range(1, 51)))
    names = classes_of(found)
    assert 2 < len(found.classes) < 7 and set(found.classes) == set(names)
    assert len(set(names[:50])) == 1 and names[0] != "0 to 0"
    assert len(set(found.classes.values())) == len(found.classes)


def test_rare_numbers_beside_a_frequent_one_have_classes():
    names = classes_of(make_colouring("x", [0] * 900 + list(range(1, 11))))
    assert len(set(names)) == 7
    assert len(set(names[:900])) == 1 and names[-1].endswith(" to 10")


def test_what_is_the_same_for_all_is_no_colouring(tmp_path):
    table = tmp_path / "table.tsv"
    rows = [f"s{n}\tsame\t\t{n % 2}" for n in range(5)]
    table.write_text("\n".join(["id\tsame\tnone\tparity", *rows]) + "\n")
    records = {f"s{n}": text for n, text in enumerate(["MKV", "MKL", "MKA", "MKW", "MKY"])}
    found = read_findings(write_sources(tmp_path, records, random_rows(5), annotations=table))
    assert [one.name for one in found.colourings] == ["parity"]


@pytest.mark.parametrize(
    "values",
    [[0.1 + n * 1e-9 for n in range(20)], [1e6 + n / 100 for n in range(20)]],
    ids=["small", "large"],
)
def test_classes_of_numbers_that_hardly_differ_have_names_of_their_own(values):
    found = make_colouring("x", values)
    assert len(found.classes) == 7
    assert len(set(classes_of(found))) == 7


def describe(folder: Path, model: PreparedModel | None = None, **attributes: Any) -> Any:
    """The methods of a result that was made with a model, which is prepared where it should be."""
    if model:
        attributes |= {"weights": model.fingerprint, "model": model.name}
    sources = write_sources(folder, THREE, random_rows(3), flags=[3, 2, 0], **attributes)
    if model:
        sources.models.mkdir(parents=True, exist_ok=True)
        write_prepared(model, sources.models / f"{model.name}.json")
    found = read_findings(sources)
    return write_methods(found.attributes, found.contents, found.width, found.model)


WINDOWS = "The 3 sequences longer than 1,022 residues were read in windows of that length"


@pytest.mark.parametrize(
    ("attributes", "said"),
    [
        (
            {"pooling": "mean", "layer": 1},
            "is the mean of the last layer (1) over all residues, special tokens not included: 8",
        ),
        (
            {"pooling": "max", "layer": 0},
            "is the maximum, value by value, of layer 0 over all residues, special tokens not",
        ),
        (
            {"pooling": "cls", "layer": 1},
            "Each embedding is the row of the last layer (1) of the first special token: 8 values.",
        ),
        ({"long_sequences": "window"}, WINDOWS),
        (
            {},
            "Of 3 sequences over 1,022 residues, the first 1,022 residues were read.",
        ),
        ({"long_sequences": "full", "max_length": 0}, "Sequences of any length were read whole."),
        (
            {"precision": "fp16", "device_name": "NVIDIA H200"},
            "in fp16 on NVIDIA H200 with PyTorch",
        ),
        ({}, "in fp32 on the CPU with PyTorch"),
        (
            {},
            "family ESM-2; facebook/esm2_t6_8M_UR50D at c731040fcd8d; weights with the SHA-256",
        ),
    ],
)
def test_methods_of_a_known_model(tmp_path, attributes, said):
    methods = describe(tmp_path, protein_model(**COMMON), **attributes)
    assert said in methods.paragraph
    assert methods.paragraph.startswith("Embeddings of 3 sequences were computed with")
    assert f"by seqembed {__version__}. Each" in methods.paragraph
    assert methods.citations[0] == "Lin et al. 2023, doi:10.1126/science.ade2574"


def test_methods_with_an_error_policy_say_nothing_of_long_sequences(tmp_path):
    methods = describe(tmp_path, protein_model(**COMMON), long_sequences="error")
    assert methods.paragraph.endswith(" and stored as float32.")


def test_methods_of_a_users_own_model(tmp_path):
    paragraph = describe(tmp_path, protein_model(source="/home/me/model")).paragraph
    assert "with the model esm (of the family ESM-2; weights with the SHA-256 cccc" in paragraph


def test_methods_of_a_dna_model(tmp_path):
    paragraph = describe(tmp_path, dna_model(), pooling="mean").paragraph
    assert "over all tokens, special tokens included" in paragraph
    assert "over 1,022 tokens" in paragraph and "The model read" not in paragraph
    # As inference/pooling.py has it.
    paragraph = describe(tmp_path, dna_model(), pooling="max").paragraph
    assert "the maximum, value by value, of" in paragraph
    assert "over all tokens, special tokens included" in paragraph


@pytest.mark.parametrize(
    ("model", "said"),
    [
        (
            protein_model(),
            "The model read <cls> before and <eos> after each sequence or window. Values",
        ),
        (
            replace(t5_model(), family="prot_t5"),
            "read </s> after each sequence or window. U, Z, O and B were read as X. Values",
        ),
        (
            replace(t5_model(), family="prost_t5"),
            "The model read <AA2fold> before and </s> after each sequence or window. U,",
        ),
        (
            replace(t5_model(), family="ankh3"),
            "The model read [NLU] before and </s> after each sequence or window. Values",
        ),
    ],
)
def test_methods_name_the_special_tokens_and_the_letters_read_as_x(tmp_path, model, said):
    assert said in describe(tmp_path, model).paragraph


def test_methods_without_the_prepared_model(tmp_path):
    methods = describe(tmp_path)
    assert "computed with the model toy (weights with the SHA-256 cccccccc" in methods.paragraph
    assert "the mean of layer 33 over a sequence's tokens: 8 values" in methods.paragraph
    assert methods.citations[0] == "the authors of the model"
    # Another model has its name now.
    sources = write_sources(tmp_path, THREE, model="esm")
    sources.models.mkdir(parents=True, exist_ok=True)
    write_prepared(protein_model(), sources.models / "esm.json")
    assert read_findings(sources).model is None


def test_the_citation_is_that_of_the_citation_file():
    text = (Path(__file__).parents[2] / "CITATION.cff").read_text(encoding="utf-8")
    assert f'title: "{TITLE}"' in text and f"- name: {AUTHORS}" in text
    assert f"version: {__version__}" in text


def test_a_licence_that_forbids_commercial_use_is_in_the_methods(tmp_path):
    paragraph = describe(tmp_path, licence="CC-BY-NC-SA-4.0").paragraph
    assert paragraph.endswith("The model's licence, CC-BY-NC-SA-4.0, forbids commercial use.")


def test_what_was_cut_is_said_at_the_top(tmp_path):
    text = write_report(write_sources(tmp_path, THREE, flags=[2, 0, 0]), {}).text
    assert text.index("1 sequence of 3 was cut: the model read the first") < text.index("asked,")


def test_a_licence_that_forbids_commercial_use_is_on_the_page(tmp_path):
    sources = write_sources(tmp_path, THREE, licence="CC-BY-NC-SA-4.0")
    assert "licence CC-BY-NC-SA-4.0" in write_report(sources, figures=False).text
