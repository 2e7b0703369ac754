"""The blocks of docs/reading.md run on the bundled example, and what they find is right."""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from driver import EXAMPLE, ROOT, Place, copy_checkout

PAGE = (ROOT / "docs/reading.md").read_text(encoding="utf-8")
# The heading above each block, and its code.
BLOCKS = re.findall(r"^## ([^\n]+)$(?:(?!^## ).)+?^```python\n(.+?)^```$", PAGE, re.M | re.S)
RESULT = "results/proteins/embeddings.h5"
LABELS = f"{EXAMPLE}/domains.tsv"
TWINS = ["tr|A0A0A3CW43|A0A0A3CW43_CANAX", "tr|A0A0A4B0A8|A0A0A4B0A8_CANAX"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A checkout in which the example's proteins were embedded."""
    folder = copy_checkout(tmp_path_factory.mktemp("example"))
    shutil.copy(ROOT / LABELS, folder / LABELS)
    options = ("--directory", EXAMPLE, "--configfile", f"{EXAMPLE}/config.yaml")
    Place(folder, folder).run(RESULT, *options)
    return folder


def run_blocks(folder: Path) -> dict[str, Any]:
    """Run the page's blocks one after another in a folder; return the variables they leave."""
    found: dict[str, Any] = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(sys, "path", [*sys.path])
        for heading, code in BLOCKS:
            exec(compile(code, heading, "exec"), found)
    return found


@pytest.fixture(scope="module")
def found(folder) -> dict[str, Any]:
    return run_blocks(folder)


def test_the_page_has_these_blocks_of_about_ten_lines():
    headings = ["Open a result", "PCA", "Nearest neighbours", "A classifier"]
    assert [heading for heading, _ in BLOCKS] == headings
    assert PAGE.count("```python") == len(BLOCKS)
    assert max(len(code.splitlines()) for _, code in BLOCKS) <= 14


def test_opening_gives_rows_and_a_table(found):
    assert found["some"].shape == (2, 128) and found["first"].shape == (10, 128)
    assert found["frame"].shape == (60, 130)


def test_pca_puts_equal_sequences_at_one_point_and_parts_domains_of_life(found):
    points = found["points"]
    assert points.shape == (60, 2) and found["pca"].explained_variance_ratio_.sum() > 0.4
    np.testing.assert_allclose(*points.loc[TWINS].to_numpy(), rtol=1e-4)
    ranks = points["PC1"].rank().groupby(found["frame"].index.map(read_labels())).mean()
    assert abs(ranks["Bacteria"] - ranks["Eukaryota"]) > 8


def test_the_nearest_neighbours_are_itself_and_its_twin(found):
    neighbours = found["neighbours"]
    assert len(neighbours) == 5 and set(neighbours.index[:2]) == set(TWINS)
    np.testing.assert_allclose(neighbours.iloc[:2], 1, atol=1e-5)
    assert neighbours.iloc[2:].max() < 0.99


def test_the_classifier_is_better_than_guessing(found):
    assert found["scores"].mean() > 0.7
    assert len(set(found["groups"])) == len(found["labels"]) - 1


def test_labels_that_say_nothing_are_not_learned(folder):
    """What the test above asks for is not met by chance."""
    shutil.copytree(folder / EXAMPLE / "results", folder / "shuffled" / EXAMPLE / "results")
    labels, scores = read_labels(), []
    for seed in range(5):
        shuffled = labels.sample(frac=1, random_state=seed).set_axis(labels.index)
        shuffled.to_csv(folder / "shuffled" / LABELS, sep="\t")
        scores.append(run_blocks(folder / "shuffled")["scores"].mean())
    assert max(scores) < 0.7


def test_each_id_of_the_example_has_a_label(found):
    assert read_labels().index.tolist() == found["frame"].index.tolist()
    assert set(read_labels()) == {"Archaea", "Bacteria", "Eukaryota", "Viruses"}


def read_labels() -> pd.Series:
    return pd.read_csv(ROOT / LABELS, sep="\t", index_col="sequence_id")["domain"]
