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
    Ankh3Architecture,
    AnkhArchitecture,
    Architecture,
    DnabertArchitecture,
    Esm1bArchitecture,
    Esm2Architecture,
    EsmcArchitecture,
    ProstT5Architecture,
    ProtT5Architecture,
    T5Architecture,
)
from seqembed.models.families import FAMILIES, Family
from seqembed.models.known import KNOWN
from seqembed.models.vocabularies import Vocabulary
from seqembed.models.weights import esm1b, esm2, esmc
from seqembed.models.weights.checkpoint import LAYOUTS
from seqembed.models.weights.layout import SUPPORTED

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


# By how a name begins: the family's architecture, activation, buckets and vocab_size.
T5_KINDS: dict[str, tuple[type[T5Architecture], str, int, int]] = {
    "prot_t5": (ProtT5Architecture, "relu", 32, 128),
    "ProstT5": (ProstT5Architecture, "relu", 32, 150),
    "ankh-": (AnkhArchitecture, "gated-gelu", 64, 144),
    "ankh3-": (Ankh3Architecture, "gated-silu", 64, 256),
}
# By width: heads, ffn_width and head_dim. Ankh large's 3,840 fits the 4.61 GB of its encoder on the
# hub (ElnaggarLab/ankh-large-encoder, fp32). Ankh 3 XL's 6,720 and 64 are not from its config.json:
# they fit its 3.49 billion parameters.
T5_SIZES = {
    768: (12, 3072, 64),
    1024: (32, 16384, 128),
    1536: (16, 3840, 64),
    2560: (32, 6720, 64),
}


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
    for kind, activation, buckets, tokens in (T5_KINDS[k] for k in T5_KINDS if name.startswith(k)):
        heads, ffn_width, head_width = T5_SIZES[width]
        return kind(layers, width, heads, ffn_width, head_width, activation, buckets, 128, tokens)
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
    # What is "about" a number was inferred.
    expected = short(count / 1e6, 3)
    if parameters.startswith("about "):
        expected = pytest.approx(count / 1e6, rel=0.01)
    stated = parameters.removeprefix("about ").removesuffix(" million")
    assert float(stated.replace(",", "")) == expected
    assert float(weights.removeprefix("about ").removesuffix(" GB")) == short(count * 4 / 1e9)
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
    names = " and ".join(
        name for family in FAMILIES.values() if family.non_commercial for name in family.models
    )
    text = (ROOT / "docs/models.md").read_text(encoding="utf-8")
    assert f"**The licence of {names} forbids commercial use.**" in text


def test_the_models_page_says_which_models_have_no_token_for_cls():
    *others, last = [name for f in FAMILIES.values() if not f.has_cls for name in f.models]
    text = " ".join((ROOT / "docs/models.md").read_text(encoding="utf-8").split())
    assert f"so {', '.join(others)} and {last} refuse `pooling: cls`" in text


def letters_cell(vocabulary: Vocabulary, letters: bytes) -> str:
    if letters.isalpha() and not vocabulary.tokens:
        return "as `tokenizer.json` says"
    if not set(letters) <= set(vocabulary.letters):
        return "no token"
    if set(letters) <= set(vocabulary.as_x):
        return "read as X"
    return "a token for each" if len(letters) > 1 else "a token"


def test_the_models_page_says_which_letters_have_tokens():
    rows: dict[tuple[str, ...], list[str]] = {}
    for family in FAMILIES.values():
        if vocabulary := family.vocabulary:
            cells = tuple(letters_cell(vocabulary, letters) for letters in (b"X", b"BZUO", b"-."))
            rows.setdefault(cells, []).extend(family.models)
    assert MODELS["Letters"] == [[", ".join(names), *cells] for cells, names in rows.items()]


def test_messages_names_the_models_that_are_supported():
    assert f"| {SUPPORTED} |" in (ROOT / "docs/messages.md").read_text(encoding="utf-8")


# The five of ESM-1v are written as the first one and its successors' ends.
def stem(name: str) -> str:
    return re.sub(r"(UR90S)_[2-5]$", r"\1_1", name)


@pytest.mark.parametrize("page", ["README.md", "config/config.yaml"])
def test_a_page_has_every_known_name(page):
    words = re.findall(r"[\w.-]*\w", (ROOT / page).read_text(encoding="utf-8"))
    assert {stem(name) for name in KNOWN} - set(words) == set()


SETTINGS = ("config/config.yaml", "config/README.md", "workflow/schemas/config.schema.yaml")


@pytest.mark.parametrize("page", SETTINGS)
def test_a_page_on_settings_has_the_longest_sequence_of_every_family(page):
    words = re.findall(r"[\w-]+", (ROOT / page).read_text(encoding="utf-8"))
    assert {str(family.max_length) for family in FAMILIES.values()} - set(words) == set()


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


def test_the_page_on_families_names_what_is_in_the_code():
    name = r"`(?:[A-Z]\w+\.)?([A-Za-z_]\w+)(?:\([^`]*)?(?:=[^`]*)?`"
    folders = ("workflow/scripts", "tests/unit", "tests/faults")
    code = [path for folder in folders for path in (ROOT / folder).rglob("*.py")]
    words = {word for path in code for word in re.findall(r"\w+", path.read_text("utf-8"))}
    assert set(re.findall(name, FAMILY_PAGE.read_text(encoding="utf-8"))) - words == set()


def test_the_script_of_the_page_on_families_runs():
    (command,) = re.findall(r"`PYTHONPATH=(\S+) python (\S+) FOLDER`", FAMILY_PAGE.read_text())
    environment = os.environ | {"PYTHONPATH": str(ROOT / command[0])}
    words = [sys.executable, str(ROOT / command[1]), str(ROOT / "tests/data/esm2_random")]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "tensor(" in done.stdout, done.stderr
