"""A dataset whose ids, descriptions and annotations try to be more than text."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from driver import Place, make_proteins

SCRIPT_ID = "<script>window.hacked=1</SCRIPT>"
IMAGE_ID = "</script><img/src=x/onerror=window.hacked=1>"
MARKUP = "<b>bold</b> \"quoted\" 'single' &amp; &lt; 🧬 line\u2028separator </title></style>"
LONG = "long " + "x" * 99_995
IMAGE_URL = "http://example.com/x.png"
# A name of a column that would end a text within an expression.
COLUMN = "back\\slash\\"
PLAIN = 40
NAME = "hostile"


@dataclass(frozen=True)
class Record:
    """A record of the FASTA file, and its values in the table; None: not in the table."""

    id: str
    description: str
    residues: str
    kind: str | None = None
    mass: float | None = None

    @property
    def fasta(self) -> str:
        return f">{self.id} {self.description}\n{self.residues}\n"

    @property
    def annotation(self) -> str:
        colour = "var(--ink)" if self.mass else "var(--foo)"
        return f"{self.id}\t{self.kind}\t{self.mass or ''}\t{IMAGE_URL}\t{colour}\n"


def make_records() -> list[Record]:
    """Forty plain records; hostile ones; two that are windowed, and two duplicates."""
    plain = [
        Record(name, f"protein {n}", residues, ("enzyme", "<b>bold</b>", "other")[n % 3], n + 0.5)
        for n, (name, residues) in enumerate(make_proteins(PLAIN, (30, 80)).items())
    ]
    residues = [*make_proteins(4, (90, 120), seed=2).values()]
    windowed = [*make_proteins(2, (1100, 1500), seed=3).values()]
    hostile = [
        Record(SCRIPT_ID, "an id that is a script", residues[0], "enzyme", 1000.5),
        Record(IMAGE_ID, "an id that is an image", residues[1], "<b>bold</b>", 2000.5),
        Record("long_description", LONG, residues[2], "other", None),
        Record("markup", MARKUP, residues[3]),
    ]
    others = [Record(f"windowed{n}", "", text, "other", 9.5) for n, text in enumerate(windowed)]
    repeats = [Record(f"again{n}", "", plain[n].residues, "other", 7.5) for n in range(2)]
    return [*plain, *hostile, *others, *repeats]


RECORDS = make_records()


def make_page(checkout: Path, folder: Path) -> Path:
    """Run the workflow on the dataset in a folder, and return its report.html."""
    place = Place(checkout, folder)
    fasta, table = folder / "hostile.fasta", folder / "table.tsv"
    fasta.write_text("".join(record.fasta for record in RECORDS), "utf-8")
    annotated = [record.annotation for record in RECORDS if record.kind]
    table.write_text(f"id\tkind\tmass\timage\t{COLUMN}\n" + "".join(annotated), "utf-8")
    place.configure(
        datasets={NAME: {"fasta": str(fasta), "model": "esm2_demo"}},
        models={"esm2_demo": str(checkout / "resources/models/esm2_demo")},
        shards=2,
        device="cpu",
        exports={"annotations": str(table)},
    )
    place.run("report")
    return folder / "results" / NAME / "report.html"
