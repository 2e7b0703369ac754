"""Files that would give wrong rows in silence: by kind, and a key phrase of what is said of each.

Six examples a kind or more, each as some program, editor or habit leaves them.
"""

from __future__ import annotations

from typing import Any

from bad_fasta import Case, make_case
from real_layouts import A, B, C, D, wrap

RECORDS = f">a one\n{wrap(A)}>b two\n{wrap(B)}"
WORDS, ODD = "looks like words", "cannot be residues of protein"


def _odd(text: str | bytes, phrase: str, line: int | None = None, **how: Any) -> Case:
    """A file that is refused; without a line, for many of its records together."""
    return make_case(text, phrase, line, file="a.fasta" if line else "", **how)


def _maybe(text: str | bytes, phrase: str, line: int, **how: Any) -> Case:
    """A file that `suspicious: allow` lets pass."""
    return _odd(text, phrase, line, allowed=True, **how)


def _above(text: str) -> str:
    """A second record with this line above its sequence, line 5."""
    return f">a one\n{wrap(A)}>b two\n{text}\n{wrap(B)}>c\n{wrap(C)}"


def _below(text: str) -> str:
    """A first record with this line below its sequence, line 4."""
    return f">a one\n{wrap(A)}{text}\n>b two\n{wrap(B)}"


ODD_FASTA: dict[str, dict[str, Case]] = {
    "PIR": {
        "the protein information resource": _maybe(
            f">P1;CRAB_ANAPL\nALPHA CRYSTALLIN B CHAIN\n{wrap(A)}*\n", "is PIR", 1
        ),
        "MODELLER's templates": _maybe(f">P1;5fd1\nsperm whale myoglobin\n{A}*\n", "is PIR", 1),
        "a fragment": _maybe(f">F1;X\nKINASE\n{A}*\n", "is PIR", 1),
        "linear DNA": _maybe(f">DL;X\nGATTACA\n{D}*\n", "is PIR", 1, molecule="DNA"),
        "RNA, circular": _maybe(">RC;X\nACCA\nACGU*\n", "is PIR", 1, molecule="DNA", asked="unk"),
        "NBRF of unknown kind": _maybe(f">XX;q\nlysozyme\n{C}*\n", "is PIR", 1),
        "transfer RNA": _maybe(">N3;x\nGATTACA\nACGT*\n", "is PIR", 1, molecule="DNA"),
    },
    "other text between residues": {
        "grep -A1": _maybe(_below("--"), "is what `grep -A`", 4, gaps="keep"),
        "a header wrapped after its names": _odd(_above("[Homo sapiens]"), ODD, 5),
        "a header wrapped within its words": _maybe(_above("protein kinase domain"), WORDS, 5),
        "a header wrapped, in capitals": _maybe(_above("HISTIDINE KINASE"), WORDS, 5),
        "a header wrapped at its last word": _maybe(_above("kinase"), "looks like a word", 5),
        "its last word, in capitals": _maybe(_above("OXIDASE"), "looks like a word", 5),
        "two words that are no blocks": _maybe(_above("transcript variant"), WORDS, 5),
        "OS= of UniProt on a line": _odd(_above("OS=Homo sapiens OX=9606"), ODD, 5),
        "head's name of a file": _odd(_below("==> b.faa"), "`>` within a line", 4),
        "the shell's list of files": _maybe(
            _below("proteins.faa"), "name of a file", 4, gaps="keep"
        ),
        "a table's columns": _maybe(_below("chain\tstart\tend"), WORDS, 4),
        "a table's numbers": _odd(_below("12\t40\t0.98"), ODD, 4),
        "an e-mail's end": _maybe(_below("Best regards"), WORDS, 4),
        "a server's answer": _maybe(">a\nSequence unavailable\n", WORDS, 2),
        "a log": _odd(_below("[INFO] done in 3 s"), ODD, 4),
        "markdown": _odd(_below("```"), ODD, 4, asked="unk"),
        "three-letter codes": _maybe(">a\nMet Lys Val Leu\n", "three-letter codes", 2),
        "three-letter codes, joined": _maybe(">a\nMetLysValLeu\n", "three-letter codes", 2),
        "three-letter codes of SEQRES": _maybe(">a\nGLY ILE VAL GLU\n", "three-letter codes", 2),
        "three-letter codes with dashes": _maybe(
            ">a\nMet-Lys-Val\n", "three-letter codes", 2, gaps="remove"
        ),
        "SEQRES itself": _odd(">a\nSEQRES   1 A   21  GLY ILE VAL\n", ODD, 2),
        "three-letter codes, capitals alone": _maybe(
            ">a\nMETLYSVALLEUSER\n", "three-letter codes", 2
        ),
        "secondary structure of DSSP": _maybe(
            f">a\n{wrap(A)}>a_ss\nCCEEEEEECCHHHHHHHHTTCCEEEECC\n", "secondary structure", 5
        ),
        "of three states": _maybe(">a\nLLLHHHHHHHHHLLLEEEEEELL\n", "secondary structure", 2),
        "with dashes for coil": _maybe(
            ">a\n---HHHHHHHHHH---EEEEEE--\n", "secondary structure", 2, gaps="remove"
        ),
        "topology below each sequence": _maybe(
            f">a | TM\n{A}\n{'I' * 20}{'M' * 21}{'O' * (len(A) - 41)}\n", "annotation", 3
        ),
        "dot-bracket of RNA": _odd(
            ">a\nGGGAAACCC\n(((...)))\n", "residues of DNA", 3, molecule="DNA"
        ),
        "Foldseek's states": _maybe(
            ">a\n" + "DPDPVVLVVLLVVLVVLVVQPPDVVDSNVVDP" * 8 + "\n", "3Di", 1
        ),
        "SaProt's pairs": _maybe(">a\nMdKpVvLvAqGdSpTv\n", "SaProt", 2),
        "DNA among proteins": _maybe(f"{RECORDS}>c\n{wrap(D)}", "DNA or RNA", 8),
        "a sequence in a header": _maybe(f">a one {A}\n{wrap(B)}", "within a header", 1),
        "columns exchanged": _maybe(f">{A}\nINS\n>{B}\nALB\n", "within a header", 1),
        "a header that was lost": _maybe(
            f">a\n{wrap(A + B[:9])}{wrap(B + C)}>c\n{wrap(C + A + B)}>d\n{wrap(B + C + A)}",
            "header seems to be missing",
            3,
        ),
        "pandas' missing value": _maybe(">a\nnan\n", "is written where a sequence is missing", 2),
        "R's missing value": _maybe(
            f">a\n{A}\n>b\nNA\n", "is written where a sequence is missing", 3
        ),
        "JSON's missing value": _maybe(
            f">a\n{A}\n>b\nnull\n", "is written where a sequence is missing", 4
        ),
        "peptides with their neighbours": _maybe(
            ">a\nK.PEPTIDEK.R\n", "residues beside it", 2, gaps="remove"
        ),
        "phosphorylated peptides": _maybe(">a\nAApSPEK\n", "phosphorylated", 2),
        "masses of modifications": _odd(">a\nPEPM[+16]TIDE\n", ODD, 2, asked="unk"),
        "chains of a complex, by colon": _odd(f">a\n{A}:{B}\n", "each chain of a complex", 2),
        "dots for `as above`": _maybe(
            f">a\n{A}\n>b\n{'.' * 40}K{'.' * (len(A) - 41)}\n", "as in the first", 4, gaps="remove"
        ),
        "overlapping words of DNABERT": _maybe(
            ">a\nATGCAA TGCAAA GCAAAT\n", "overlapping words", 2, molecule="DNA"
        ),
        "a peptide's chemical ends": _maybe(
            ">a\nAc-SYSMEHFRW-OH\n", "chemical ends", 2, gaps="remove"
        ),
        "a dash between all residues": _maybe(
            ">a\nM-K-V-L-L\n", "a dash between all", 2, gaps="keep"
        ),
        "a text that a table shows cut": _maybe(
            f">a\n{A[:50]}...\n", "looks cut", 2, gaps="remove"
        ),
        "texts that a database cut": _maybe(
            "".join(f">s{n}\n{(x * 4)[:255]}\n" for n, x in enumerate((A, B, C))) + f">d\n{A}\n",
            "were they cut",
            1,
        ),
        "a column behind the sequence": _maybe(f">a\n{A}\tcytoplasm\n", WORDS, 2),
        "what the shell says of a job": _maybe(_below("Killed"), "looks like a word", 4),
        "a word alone, below its header": _maybe(">a\nUnknown\n", "looks like a word", 2),
        "a word alone, in capitals": _maybe(">a\nHYPOTHETICALORFOUT\n", "looks like a word", 2),
        "residues behind an id": _maybe(f">b0003{A[:60]}\n{A[60:]}{B}\n", "within a header", 1),
        "an id that is repeated": _maybe(f">INSA\nINSA\n{wrap(A)}", "a word above", 2),
        "both strands": _maybe(
            f">a\n{D[:40]}\n{D[:40].translate(str.maketrans('ACGT', 'TGCA'))}\n",
            "other strand",
            3,
            molecule="DNA",
        ),
        "a download that broke off": _maybe(
            f">a length:{len(A)}\n{A}\n>b length:{len(B)}\n{B}\n>c length:{len(C)}\n{C[:30]}\n",
            "was the file cut",
            5,
        ),
        "ligands of Boltz": _maybe(f">A|protein\n{A}\n>B|ccd\nSAH\n", "says that this is ccd", 3),
        "RNA of Chai": _maybe(f">protein|A\n{A}\n>rna|B\nGCAGCA\n", "this is rna", 3),
        "RNA whose U would be unknown": _maybe(
            ">a\nGACUUACGGAUCAACUUA\n", "is RNA", 2, molecule="DNA", asked="unk"
        ),
        "gaps of tbl2asn": _maybe(
            f">a\n{D}\n>?200\n{D}\n", "a gap of NCBI's tbl2asn", 3, molecule="DNA"
        ),
        "Dayhoff's classes": _maybe(">a\nebbbbbbcedcbeeedfcccefcee\n", "classes of amino", 2),
        "hydrophobic or polar": _maybe(">a\nHPHPPHHPHPPHPHHPPHPH\n", "classes of amino", 2),
        "a contig's words": _odd(f">a\n{D}\nend of contig\n", "residues of DNA", 3, molecule="DNA"),
        "proteins of a contig": _odd(
            f">a\n{wrap(D * 9)}>b\n{A}\n", "residues of DNA", 16, molecule="DNA", asked="unk"
        ),
    },
    "stops": {
        "gffread's, within": _odd(">a\nMKV.LLG\n", "1 gap in 1 sequence"),
        "gffread's, twice at the end": _odd(">a\nMKVLLG..\n", "2 gaps in 1 sequence"),
        "getorf's, within": _odd(">a\nMKV*LLG\n", "a stop may only end"),
        "transeq's": _odd(">a_1\nMKV*LLG*\n", "a stop may only end"),
        "EMBOSS's, as a plus": _odd(">a\nMKV+LLG\n", ODD, 2, asked="unk"),
        "as a number sign": _odd(">a\nMKV#LLG\n", ODD, 2, asked="unk"),
        "a stop alone": _odd(">a\n*\n", "has no residues", 1),
        "a dot alone": _odd(">a\n.\n", "has no residues", 1),
    },
    "gaps": {
        "Clustal Omega's": _odd(">a\nMK--VL\n>b\nMKAAVL\n", "2 gaps in 1 sequence ('-' 2)"),
        "A2M's dots": _odd(">a\nMK..vLL\n>b\nMKaavLL\n", "2 gaps in 1 sequence ('.' 2)"),
        "A3M's": _odd(">q\nMKVL\n>h\nM-vaVL\n", "`gaps: remove` to have them taken out"),
        "MUSCLE's, at the ends": _odd(">a\n--MKVL--\n", "4 gaps in 1 sequence"),
        "of DNA": _odd(">a\nAC-GT\n", "1 gap in 1 sequence", molecule="DNA"),
        "of DNA, as the model's": _odd(
            ">a\nAC-GT\n", "does not know 1 residue", molecule="DNA", gaps="keep"
        ),
        "a record of gaps": _odd(">a\nMKV\n>b\n---\n", "has only gaps", 3, gaps="remove"),
        "a record of gaps and a stop": _odd(">b\n--*\n", "has only gaps", 1, gaps="remove"),
        "GCG's tildes": _odd(">a\n~~MKV\n", ODD, 2, gaps="remove", asked="unk"),
        "NEXUS's unknown": _odd(">a\nMK??V\n", ODD, 2, asked="unk"),
    },
    "invisible characters": {
        "a zero-width space": _odd(">a\nMK\u200bV\n", "U+200B ZERO WIDTH SPACE", 2),
        "a no-break space": _odd(">a\nMKV\u00a0LLG\n", "U+00A0 NO-BREAK SPACE", 2, asked="unk"),
        "a soft hyphen of a web page": _odd(">a\nMK\u00adV\n", "U+00AD SOFT HYPHEN", 2),
        "a word joiner": _odd(">a\nMK\u2060V\n", "U+2060 WORD JOINER", 2, asked="unk"),
        "a byte-order mark in the middle": _odd(
            ">a\nMKV\n\ufeffLLG\n", "ZERO WIDTH NO-BREAK SPACE", 3
        ),
        "Word's hyphen": _odd(">a\nMK\u2013V\n", "U+2013 EN DASH", 2, gaps="remove"),
        "a Cyrillic letter": _odd(">a\nMK\u0410V\n", "U+0410 CYRILLIC CAPITAL LETTER A", 2),
        "a ligature of a PDF": _odd(">a\nM\ufb01V\n", "U+FB01 LATIN SMALL LIGATURE FI", 2),
        "full-width letters": _odd(">a\n\uff2d\uff2b\n", "FULLWIDTH LATIN CAPITAL LETTER M", 2),
        "in an id": _odd(">a\u200b1\nMKV\n", "the id holds U+200B ZERO WIDTH SPACE", 1),
        "a mark of direction in an id": _odd(">a\u200f\nMKV\n", "the id holds U+200F", 1),
        "an id that begins with a no-break space": _odd(
            ">\u00a0a\nMKV\n", "the header has no id", 1
        ),
        "half a character": _odd(b">a\nMK\xe2\x80V\n", "byte 0xe2", 2, asked="unk"),
    },
}
