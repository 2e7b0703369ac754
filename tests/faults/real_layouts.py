"""FASTA files in the layouts of programs and databases: each is read, as it says, without a word.

The sequences are made up, or short pieces of public ones; the headers are as these programs write
them.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

ACIDS = "LAGVSERTIDPKQNFYMHWC"
A = "MKTAYIAKQRQISFVKSHFSRQLEERLGLIEVQAPILSRVGDGTQDNLSGAEKAVQVKVKALPDAQFEVVHSLAKWKR"
B = "MAEGEITTFTALTEKFNLPPGNYKKPKLLYCSNGGHFLRILPDGTVDGTRDRSDQHIQLQLSAESVGEVYIKSTETGQYL"
C = "MNIFEMLRIDEGLRLKIYKDTEGYYTIGIGHLLTKSPSLNAAKSELDKAIGRNTNGVITKDEAEKLFNQDVDAAVRGILR"
D = "GGGCGGCGACCTCGCGGGTTTTCGCTATTTATGAAAATTTTCCGGTTTAAGGCGTTTCCGTTCTTCTTCGTCATAACTTAATG"


WINDOWS = "\r\n"


@dataclass(frozen=True)
class Layout:
    """A file, how it is read, and the ids and residues that come of it."""

    content: bytes | str
    expected: list[tuple[str, str]]
    molecule: str = "protein"
    ids: str = "header"
    gaps: str = "error"
    asked: str = "error"


def wrap(text: str, width: int = 60, end: str = "\n") -> str:
    return "".join(text[at : at + width] + end for at in range(0, len(text), width))


def _layout(pairs: list[tuple[str, str]], width: int = 60, stop: str = "", **how: str) -> Layout:
    """Of headers and sequences, lines of this width, a stop behind each; ids are first words."""
    text = "".join(f">{header}\n{wrap(residues + stop, width)}" for header, residues in pairs)
    whole = how.get("ids") == "whole-header"
    expected = [(header if whole else header.split()[0], residues) for header, residues in pairs]
    return Layout(text.encode(), expected, **how)


def _blocks(text: str, size: int, columns: int) -> str:
    parts = [text[at : at + size] for at in range(0, len(text), size)]
    lines = [" ".join(parts[at : at + columns]) for at in range(0, len(parts), columns)]
    return "\n".join(lines) + "\n"


def _mask(text: str, seed: int) -> str:
    """Soft-masked: runs in lower case, some over whole lines."""
    choice, out = Random(seed), ""
    while len(out) < len(text):
        run = text[len(out) : len(out) + choice.choice([5, 40, 150])]
        out += run.lower() if choice.random() < 0.5 else run
    return out


_choice = Random(5)
GENOME = "".join(_choice.choices("ACGT", k=2000))
PEPTIDES = ["".join(_choice.choices(ACIDS, k=5)) for _ in range(40)]
COLLAGEN = "".join("G" + x + y for x, y in zip("PAPPSPRPLP" * 9, "PKQPPEGARD" * 9, strict=True))

LAYOUTS = {
    "Prodigal's proteins, stops and all": _layout(
        [
            ("ctg1_1 # 3 # 245 # 1 # ID=1_1;partial=10;start_type=Edge;rbs_motif=None", A),
            ("ctg1_2 # 300 # 542 # -1 # ID=1_2;partial=00;start_type=ATG;rbs_motif=AGGAG", B),
        ],
        stop="*",
    ),
    "gffread -y, stops as dots": _layout([("t1 gene=g1", A), ("t2 gene=g2", B)], 70, stop="."),
    "UniProt": _layout(
        [
            ("sp|P12345|AATM_RABIT Aspartate aminotransferase OS=Oryctolagus OX=9986 PE=1 SV=2", A),
            ("tr|A0A024|A0A024_HUMAN Uncharacterized protein (Fragment) OS=Homo sapiens SV=1", B),
        ]
    ),
    "UniProt, by accession": Layout(
        f">sp|P12345|AATM_RABIT x\n{wrap(A)}>sp|P12345-2|AATM_RABIT y\n{wrap(B)}",
        [("P12345", A), ("P12345-2", B)],
        ids="accession",
    ),
    "NCBI's nr, headers of equal sequences joined by Ctrl-A": Layout(
        f">WP_1.1 MULTISPECIES: x [Y]\x01AAC2.1 x [Y z]\x01EGT3.1 x\n{wrap(A, 80)}", [("WP_1.1", A)]
    ),
    "NCBI's older ids, by accession": Layout(
        f">gi|129295|sp|P01013.2|OVAX_CHICK RecName\n{wrap(A, 70)}",
        [("P01013.2", A)],
        ids="accession",
    ),
    "Ensembl's proteins": _layout(
        [("ENSP00000451515.1 pep chromosome:GRCh38:14:22438547:22438554:1 gene:ENSG1.1", "TGGY")]
        + [("ENSP00000452345.1 pep chromosome:GRCh38:14:1:9:1 transcript_biotype:x", A)]
    ),
    "PDB's seqres": _layout(
        [
            ("101m_A mol:protein length:80  MYOGLOBIN", A),
            ("1a02_X mol:protein  NFAT", "X" * 20 + B),
        ],
        10_000,
    ),
    "RCSB, chains by case": _layout(
        [("6ZMI_1|Chains A, B[auth LA]|60S ribosomal protein L8|Homo sapiens (9606)", A)]
        + [("6ZMI_1|Chains a|60S ribosomal protein L8|Homo sapiens (9606)", B)],
        10_000,
        ids="whole-header",
    ),
    "AlphaFold's database": _layout(
        [("AFDB:AF-P12345-F1 Aspartate aminotransferase UA=P12345 UI=AATM_RABIT", A)]
    ),
    "MMseqs2, one line a sequence": _layout([("A0A1", A), ("A0A2", B)], 10_000),
    "MMseqs2's clusters without the lines of representatives": _layout(
        [("rep1 n=3 Tax=x RepID=y", A), ("rep2", B)], 10_000
    ),
    "CD-HIT's representatives": _layout([("seq1", A), ("seq2", B)], 10_000),
    "UniRef": _layout(
        [("UniRef50_A0A5A9 Peptidylprolyl isomerase n=1 Tax=T. alsi TaxID=1 RepID=A0A5A9_9", A)]
    ),
    "HHblits's A3M, gaps taken out and insertions kept": Layout(
        f">query\n{A[:20]}\n>hit1\n{A[:5]}--{A[7:20].lower()}\n>hit2\n---{B[:17]}gvs--\n",
        [("query", A[:20]), ("hit1", A[:5] + A[7:20]), ("hit2", B[:17] + "GVS")],
        gaps="remove",
    ),
    "MAFFT, lower case and wrapped": Layout(
        f">a\n{wrap((A[:30] + '-' * 40 + A[30:]).lower())}>b\n{wrap(B + '-' * 40)}",
        [("a", A), ("b", B)],
        gaps="remove",
    ),
    "an alignment, its gaps kept": Layout(
        f">a\n{A[:20]}--{A[20:30]}\n>b\n--{B[:30]}\n",
        [("a", A[:20] + "--" + A[20:30]), ("b", "--" + B[:30])],
        gaps="keep",
    ),
    "UCSC's soft-masked genome": _layout(
        [("chr1", _mask(GENOME, 1)), ("chrM", _mask(GENOME[::-1], 2))], 50, molecule="DNA"
    ),
    "SPAdes's contigs": _layout(
        [("NODE_1_length_2000_cov_12.3", GENOME), ("NODE_2_length_83_cov_1.5", D)], molecule="DNA"
    ),
    "NCBI's genome, lines of 80": _layout(
        [("NC_001416.1 Enterobacteria phage lambda, complete genome", GENOME)], 80, molecule="DNA"
    ),
    "contigs with IUPAC's codes, as unknown": _layout(
        [("c1", GENOME[:90] + "NNNNNRYKM" + GENOME[90:180])], molecule="DNA", asked="unk"
    ),
    "blocks of ten": Layout(
        f">a\n{_blocks(A, 10, 6)}>b\n{_blocks(B[:23], 10, 6)}", [("a", A), ("b", B[:23])]
    ),
    "one residue a blank, as for ProtT5": Layout(f">a\n{' '.join(A)}\n", [("a", A)]),
    "codons": Layout(f">a\n{_blocks(D[:81], 3, 20)}", [("a", D[:81])], molecule="DNA"),
    "guides with their PAM": Layout(
        b">g1\nGACGCATAAAGATGAGACGC TGG\n", [("g1", "GACGCATAAAGATGAGACGCTGG")], molecule="DNA"
    ),
    "peptides of five": _layout([(f"p{n}", text) for n, text in enumerate(PEPTIDES)]),
    "poly-Q, polyglycine and a linker": _layout(
        [("htt", "MATLEKLMKAFESLKSF" + "Q" * 40 + "P" * 11), ("gly", "G" * 80), ("l", "GGGGS" * 9)]
    ),
    "collagen": _layout([("col1", COLLAGEN), ("col2", COLLAGEN[::-1])]),
    "a poly-H tag and coiled coils": _layout(
        [("tag", "MGSSHHHHHHSSGLVPRGSH"), ("e", "EEEEEK" * 9)]
    ),
    "a record of 10 MB on one line": _layout([("big", GENOME * 5000)], 10**8, molecule="DNA"),
    "Windows line ends and blank lines": Layout(
        f">a x\r\n{wrap(A, end=WINDOWS)}\r\n\r\n>b\r\n{B}\r\n", [("a", A), ("b", B)]
    ),
    "a byte-order mark, as Windows writes": Layout(f"\ufeff>a\n{A}\n", [("a", A)]),
    "comments of Pearson's FASTA": Layout(
        f"; a library\n>a\n; checked 1991\n; by hand\n{wrap(A)}; the end of a\n>b\n{B}\n",
        [("a", A), ("b", B)],
    ),
    "descriptions in Latin-1": Layout(
        b">a prot\xe9ine de M\xfcller\n" + A.encode() + b"\n", [("a", A)]
    ),
    "a no-break space behind the id": Layout(f">a\u00a0b c\n{A}\n", [("a", A)]),
    "lines of many widths, by hand": Layout(
        "".join(f">s{n}\n{A[:n]}\n{A[n : 2 * n + 9]}\n{A[2 * n + 9 :]}\n" for n in range(7, 14)),
        [(f"s{n}", A) for n in range(7, 14)],
    ),
    "first words that repeat, whole headers": Layout(
        f">contig 1\n{A}\n>contig 2\n{B}\n", [("contig 1", A), ("contig 2", B)], ids="whole-header"
    ),
    "selenoproteins and pyrrolysine": _layout(
        [("gpx1", A[:46] + "U" + A[46:]), ("mtmB", B + "O" + A)]
    ),
    "the end of selenoprotein P": _layout([("SELENOP_tail", "GLSQUCUSUQUTCIPR"), ("b", B)]),
    "line ends of both systems, and blank lines": Layout(
        f">a\r\n\r\n{wrap(A, 40, WINDOWS)}\r\n>b\n\n{wrap(B, 50)}\n>c\r\n{wrap(C)}",
        [("a", A), ("b", B), ("c", C)],
    ),
    "stops on lines of their own": Layout(f">a\n{A}\n*\n>b\n{B}\n.\n", [("a", A), ("b", B)]),
    "reads of SRA, trimmed behind their headers": _layout(
        [(f"SRR1.{n} {n} length=60", GENOME[n : n + 60 - n % 4]) for n in range(1, 40)],
        molecule="DNA",
    ),
    "Boltz's input of proteins": Layout(f">A|protein|empty\n{A}\n", [("A|protein|empty", A)]),
    "an epitope at the end of a header": Layout(f">e1 antigen {A[5:40]}\n{wrap(A)}", [("e1", A)]),
}
