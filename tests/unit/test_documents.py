"""The pages for users: short where they should be, their links whole, their files there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from seqembed.models.architectures import (
    Architecture,
    DnabertArchitecture,
    Esm1bArchitecture,
    Esm2Architecture,
    EsmcArchitecture,
)
from seqembed.models.families import FAMILIES, Family
from seqembed.models.known import KNOWN
from seqembed.models.weights import esm1b, esm2, esmc
from seqembed.models.weights.checkpoint import LAYOUTS

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), ROOT / "config/README.md"])
LINK = re.compile(r"\]\(([^)#\s]*)(?:#([^)\s]*))?\)")
FILE = re.compile(r"`((?:[a-z_]+/)+[a-z_]+\.(?:py|smk|yaml))`")
PLACES = (".", "workflow/scripts", "workflow/scripts/seqembed")


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-") for text in headings}


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 150


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    for target, anchor in LINK.findall(page.read_text(encoding="utf-8")):
        if "://" in target:
            continue
        path = (page.parent / target).resolve() if target else page
        assert path.exists(), target
        assert not anchor or anchor in anchors(path), f"{target}#{anchor}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_files_that_a_page_names_are_there(page):
    for name in FILE.findall(page.read_text(encoding="utf-8")):
        assert any((ROOT / place / name).exists() for place in PLACES), name


def tables(page: Path) -> dict[str, list[list[str]]]:
    """The tables of a page by the heading above each: rows of cells, without the table's head."""
    found: dict[str, list[list[str]]] = {}
    for part in re.split(r"^#+ ", page.read_text(encoding="utf-8"), flags=re.MULTILINE):
        lines = [line for line in part.splitlines() if line.startswith("|")]
        cells = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]
        found[part.partition("\n")[0]] = cells[2:]
    return found


MODELS = tables(ROOT / "docs/models.md")


def number(text: str) -> int:
    return int(text.replace(",", ""))


def official(name: str, layers: int, width: int) -> Architecture:
    """The architecture of the known model with this number of layers and this width."""
    if name.startswith("esm2"):
        return Esm2Architecture(layers, width, esm2.KNOWN_HEADS[layers, width], 4 * width)
    if name.startswith("esm1"):
        heads = esm1b.KNOWN_HEADS[layers, width]
        return Esm1bArchitecture(layers, width, heads, 4 * width, name.startswith("esm1b"))
    if name.startswith("esmc"):
        assert esmc.KNOWN_LAYERS[width] == layers
        heads = width // esmc.HEAD_DIM
        return EsmcArchitecture(layers, width, heads, esmc.ffn_width(width))
    assert name.startswith("DNABERT")
    return DnabertArchitecture(layers, width, 12, 4 * width, vocabulary=4096)


def count_parameters(architecture: Architecture) -> int:
    kind = type(architecture)
    layout = next(layout for layout in LAYOUTS if layout.family.architecture is kind)
    with torch.device("meta"):
        encoder = layout.encoder(architecture, architecture.layers)
    return sum(weight.numel() for weight in encoder.parameters())


def short(value: float, digits: int = 2) -> float:
    """A value, rounded to this number of digits, as tables have it."""
    return float(f"{value:.{digits}g}")


def test_the_models_page_has_every_known_model():
    rows = {name.strip("`"): repository for name, repository, *_ in MODELS["Known names"]}
    assert rows == {name: model.repository for name, model in KNOWN.items()}


@pytest.mark.parametrize("row", MODELS["Known names"], ids=lambda row: row[0])
def test_the_models_page_has_the_sizes_of_each_known_model(row):
    name, _, layers, width, parameters, weights, rows = row
    architecture = official(name.strip("`"), number(layers), number(width))
    count = count_parameters(architecture)
    assert float(parameters.replace(",", "").removesuffix(" million")) == short(count / 1e6, 3)
    assert float(weights.removesuffix(" GB")) == short(count * 4 / 1e9)
    assert float(rows.removesuffix(" GB")) == short(architecture.width * 4 / 1e3)


def licence_row(family: Family) -> list[str]:
    return [", ".join(family.models), family.molecule, family.licence, family.citation]


def default_row(family: Family) -> list[str]:
    if family.vocabulary:
        unit, before, after = "residues", family.vocabulary.before, family.vocabulary.after
    else:
        unit, before, after = "tokens", ("[CLS]",), ("[SEP]",)
    around = ((before, "before"), (after, "after"))
    specials = [f"`{' '.join(tokens)}` {where}" for tokens, where in around if tokens]
    return [
        ", ".join(family.models),
        f"{family.max_length:,} {unit}",
        "full" if family.reads_whole else "window",
        "refused" if family.positions_end else "allowed",
        family.half,
        "all tokens" if family.pools_specials else "residues",
        ", ".join(specials),
    ]


def test_the_models_page_has_every_licence_and_citation():
    assert MODELS["Licences and papers"] == [licence_row(family) for family in FAMILIES.values()]


def test_the_models_page_has_the_defaults_of_every_family():
    rows = MODELS["What `auto` and `mean` mean"]
    assert rows == [default_row(family) for family in FAMILIES.values()]


def test_the_models_page_says_which_licences_are_non_commercial():
    none = "None of these models has such a licence" in (ROOT / "docs/models.md").read_text()
    assert none == (not any(family.non_commercial for family in FAMILIES.values()))


# The five of ESM-1v are written as the first one and its successors' ends.
def stem(name: str) -> str:
    return re.sub(r"(UR90S)_[2-5]$", r"\1_1", name)


def test_the_readme_has_every_known_name():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert [name for name in KNOWN if f"`{stem(name)}`" not in text] == []


def test_security_names_every_model_that_has_a_file_of_unknown_hash():
    text = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
    unknown = [name for name, model in KNOWN.items() if None in model.files.values()]
    assert unknown and [name for name in unknown if f"`{stem(name)}`" not in text] == []


FAMILY_PAGE = ROOT / "docs/adding-a-family.md"
QUOTED = re.findall(r"^```python\n(.*?)^```$", FAMILY_PAGE.read_text(), re.DOTALL | re.MULTILINE)


def test_the_page_on_families_is_short():
    assert len(FAMILY_PAGE.read_text().splitlines()) < 200 and len(QUOTED) > 3


@pytest.mark.parametrize("block", QUOTED, ids=lambda block: block.splitlines()[0])
def test_the_page_on_families_quotes_the_code_of_today(block):
    file, _, code = block.partition("\n")
    assert code in (ROOT / "workflow/scripts/seqembed" / file.removeprefix("# ")).read_text()


def test_the_script_of_the_page_on_families_runs():
    (command,) = re.findall(r"`PYTHONPATH=(\S+) python (\S+) FOLDER`", FAMILY_PAGE.read_text())
    environment = os.environ | {"PYTHONPATH": str(ROOT / command[0])}
    words = [sys.executable, str(ROOT / command[1]), str(ROOT / "tests/data/esm2_random")]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "tensor(" in done.stdout, done.stderr
