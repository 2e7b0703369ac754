"""Files that would give wrong rows in silence, by kind, as programs, editors and habits leave them.

messages/fasta.txt has the message of each.
"""

from __future__ import annotations

from typing import Any

from bad_fasta import Case, make_case
from real_layouts import A, B, C, D, wrap

RECORDS = f">a one\n{wrap(A)}>b two\n{wrap(B)}"


def _odd(text: str | bytes, line: int | None = None, **how: Any) -> Case:
    """A file that is refused; without a line, for many of its records together."""
    return make_case(text, line, file="a.fasta" if line else "", **how)


def _maybe(text: str, line: int, **how: Any) -> Case:
    """A file that `suspicious: allow` lets pass."""
    return _odd(text, line, allowed=True, **how)


def _above(text: str) -> str:
    """A second record with this line above its sequence, line 5."""
    return f">a one\n{wrap(A)}>b two\n{text}\n{wrap(B)}>c\n{wrap(C)}"


def _below(text: str) -> str:
    """A first record with this line below its sequence, line 4."""
    return f">a one\n{wrap(A)}{text}\n>b two\n{wrap(B)}"


ODD_FASTA: dict[str, dict[str, Case]] = {
    "PIR": {
        "the protein information resource": _maybe(
            f">P1;CRAB_ANAPL\nALPHA CRYSTALLIN B CHAIN\n{wrap(A)}*\n", 1
        ),
        "MODELLER's templates": _maybe(f">P1;5fd1\nsperm whale myoglobin\n{A}*\n", 1),
        "a fragment": _maybe(f">F1;X\nKINASE\n{A}*\n", 1),
        "linear DNA": _maybe(f">DL;X\nGATTACA\n{D}*\n", 1, molecule="DNA"),
        "RNA, circular": _maybe(">RC;X\nACCA\nACGU*\n", 1, molecule="DNA", asked="unk"),
        "NBRF of unknown kind": _maybe(f">XX;q\nlysozyme\n{C}*\n", 1),
        "transfer RNA": _maybe(">N3;x\nGATTACA\nACGT*\n", 1, molecule="DNA"),
    },
    "other text between residues": {
        "grep -A1": _maybe(_below("--"), 4, gaps="keep"),
        "a header wrapped after its names": _odd(_above("[Homo sapiens]"), 5),
        "a header wrapped within its words": _maybe(_above("protein kinase domain"), 5),
        "a header wrapped, in capitals": _maybe(_above("HISTIDINE KINASE"), 5),
        "a header wrapped at its last word": _maybe(_above("kinase"), 5),
        "its last word, in capitals": _maybe(_above("OXIDASE"), 5),
        "two words that are no blocks": _maybe(_above("transcript variant"), 5),
        "OS= of UniProt on a line": _odd(_above("OS=Homo sapiens OX=9606"), 5),
        "head's name of a file": _odd(_below("==> b.faa"), 4),
        "the shell's list of files": _maybe(_below("proteins.faa"), 4, gaps="keep"),
        "a table's columns": _maybe(_below("chain\tstart\tend"), 4),
        "a table's numbers": _odd(_below("12\t40\t0.98"), 4),
        "an e-mail's end": _maybe(_below("Best regards"), 4),
        "a server's answer": _maybe(">a\nSequence unavailable\n", 2),
        "a log": _odd(_below("[INFO] done in 3 s"), 4),
        "markdown": _odd(_below("```"), 4, asked="unk"),
        "three-letter codes": _maybe(">a\nMet Lys Val Leu\n", 2),
        "three-letter codes, joined": _maybe(">a\nMetLysValLeu\n", 2),
        "three-letter codes of SEQRES": _maybe(">a\nGLY ILE VAL GLU\n", 2),
        "three-letter codes with dashes": _maybe(">a\nMet-Lys-Val\n", 2, gaps="remove"),
        "SEQRES itself": _odd(">a\nSEQRES   1 A   21  GLY ILE VAL\n", 2),
        "three-letter codes, capitals alone": _maybe(">a\nMETLYSVALLEUSER\n", 2),
        "secondary structure of DSSP": _maybe(
            f">a\n{wrap(A)}>a_ss\nCCEEEEEECCHHHHHHHHTTCCEEEECC\n", 5
        ),
        "of three states": _maybe(">a\nLLLHHHHHHHHHLLLEEEEEELL\n", 2),
        "with dashes for coil": _maybe(">a\n---HHHHHHHHHH---EEEEEE--\n", 2, gaps="remove"),
        "topology below each sequence": _maybe(
            f">a | TM\n{A}\n{'I' * 20}{'M' * 21}{'O' * (len(A) - 41)}\n", 3
        ),
        "dot-bracket of RNA": _odd(">a\nGGGAAACCC\n(((...)))\n", 3, molecule="DNA"),
        "Foldseek's states": _maybe(">a\n" + "DPDPVVLVVLLVVLVVLVVQPPDVVDSNVVDP" * 8 + "\n", 1),
        "SaProt's pairs": _maybe(">a\nMdKpVvLvAqGdSpTv\n", 2),
        "DNA among proteins": _maybe(f"{RECORDS}>c\n{wrap(D)}", 8),
        "a sequence in a header": _maybe(f">a one {A}\n{wrap(B)}", 1),
        "columns exchanged": _maybe(f">{A}\nINS\n>{B}\nALB\n", 1),
        "a header that was lost": _maybe(
            f">a\n{wrap(A + B[:9])}{wrap(B + C)}>c\n{wrap(C + A + B)}>d\n{wrap(B + C + A)}", 3
        ),
        "pandas' missing value": _maybe(">a\nnan\n", 2),
        "R's missing value": _maybe(f">a\n{A}\n>b\nNA\n", 3),
        "JSON's missing value": _maybe(f">a\n{A}\n>b\nnull\n", 4),
        "peptides with their neighbours": _maybe(">a\nK.PEPTIDEK.R\n", 2, gaps="remove"),
        "phosphorylated peptides": _maybe(">a\nAApSPEK\n", 2),
        "masses of modifications": _odd(">a\nPEPM[+16]TIDE\n", 2, asked="unk"),
        "chains of a complex, by colon": _odd(f">a\n{A}:{B}\n", 2),
        "dots for `as above`": _maybe(
            f">a\n{A}\n>b\n{'.' * 40}K{'.' * (len(A) - 41)}\n", 4, gaps="remove"
        ),
        "overlapping words of DNABERT": _maybe(">a\nATGCAA TGCAAA GCAAAT\n", 2, molecule="DNA"),
        "a peptide's chemical ends": _maybe(">a\nAc-SYSMEHFRW-OH\n", 2, gaps="remove"),
        "a dash between all residues": _maybe(">a\nM-K-V-L-L\n", 2, gaps="keep"),
        "a text that a table shows cut": _maybe(f">a\n{A[:50]}...\n", 2, gaps="remove"),
        "texts that a database cut": _maybe(
            "".join(f">s{n}\n{(x * 4)[:255]}\n" for n, x in enumerate((A, B, C))) + f">d\n{A}\n", 1
        ),
        "a column behind the sequence": _maybe(f">a\n{A}\tcytoplasm\n", 2),
        "what the shell says of a job": _maybe(_below("Killed"), 4),
        "a word alone, below its header": _maybe(">a\nUnknown\n", 2),
        "a word alone, in capitals": _maybe(">a\nHYPOTHETICALORFOUT\n", 2),
        "residues behind an id": _maybe(f">b0003{A[:60]}\n{A[60:]}{B}\n", 1),
        "an id that is repeated": _maybe(f">INSA\nINSA\n{wrap(A)}", 2),
        "both strands": _maybe(
            f">a\n{D[:40]}\n{D[:40].translate(str.maketrans('ACGT', 'TGCA'))}\n", 3, molecule="DNA"
        ),
        "a download that broke off": _maybe(
            f">a length:{len(A)}\n{A}\n>b length:{len(B)}\n{B}\n>c length:{len(C)}\n{C[:30]}\n", 5
        ),
        "ligands of Boltz": _maybe(f">A|protein\n{A}\n>B|ccd\nSAH\n", 3),
        "RNA of Chai": _maybe(f">protein|A\n{A}\n>rna|B\nGCAGCA\n", 3),
        "RNA whose U would be unknown": _maybe(
            ">a\nGACUUACGGAUCAACUUA\n", 2, molecule="DNA", asked="unk"
        ),
        "gaps of tbl2asn": _maybe(f">a\n{D}\n>?200\n{D}\n", 3, molecule="DNA"),
        "Dayhoff's classes": _maybe(">a\nebbbbbbcedcbeeedfcccefcee\n", 2),
        "hydrophobic or polar": _maybe(">a\nHPHPPHHPHPPHPHHPPHPH\n", 2),
        "a contig's words": _odd(f">a\n{D}\nend of contig\n", 3, molecule="DNA"),
        "proteins of a contig": _odd(
            f">a\n{wrap(D * 9)}>b\n{A}\n", 16, molecule="DNA", asked="unk"
        ),
    },
    "stops": {
        "gffread's, within": _odd(">a\nMKV.LLG\n"),
        "gffread's, twice at the end": _odd(">a\nMKVLLG..\n"),
        "getorf's, within": _odd(">a\nMKV*LLG\n"),
        "transeq's": _odd(">a_1\nMKV*LLG*\n"),
        "EMBOSS's, as a plus": _odd(">a\nMKV+LLG\n", 2, asked="unk"),
        "as a number sign": _odd(">a\nMKV#LLG\n", 2, asked="unk"),
        "a stop alone": _odd(">a\n*\n", 1),
        "a dot alone": _odd(">a\n.\n", 1),
    },
    "gaps": {
        "Clustal Omega's": _odd(">a\nMK--VL\n>b\nMKAAVL\n"),
        "A2M's dots": _odd(">a\nMK..vLL\n>b\nMKaavLL\n"),
        "A3M's": _odd(">q\nMKVL\n>h\nM-vaVL\n"),
        "MUSCLE's, at the ends": _odd(">a\n--MKVL--\n"),
        "of DNA": _odd(">a\nAC-GT\n", molecule="DNA"),
        "of DNA, as the model's": _odd(">a\nAC-GT\n", molecule="DNA", gaps="keep"),
        "a record of gaps": _odd(">a\nMKV\n>b\n---\n", 3, gaps="remove"),
        "a record of gaps and a stop": _odd(">b\n--*\n", 1, gaps="remove"),
        "GCG's tildes": _odd(">a\n~~MKV\n", 2, gaps="remove", asked="unk"),
        "NEXUS's unknown": _odd(">a\nMK??V\n", 2, asked="unk"),
    },
    "invisible characters": {
        "a zero-width space": _odd(">a\nMK\u200bV\n", 2),
        "a no-break space": _odd(">a\nMKV\u00a0LLG\n", 2, asked="unk"),
        "a soft hyphen of a web page": _odd(">a\nMK\u00adV\n", 2),
        "a word joiner": _odd(">a\nMK\u2060V\n", 2, asked="unk"),
        "a byte-order mark in the middle": _odd(">a\nMKV\n\ufeffLLG\n", 3),
        "Word's hyphen": _odd(">a\nMK\u2013V\n", 2, gaps="remove"),
        "a Cyrillic letter": _odd(">a\nMK\u0410V\n", 2),
        "a ligature of a PDF": _odd(">a\nM\ufb01V\n", 2),
        "full-width letters": _odd(">a\n\uff2d\uff2b\n", 2),
        "in an id": _odd(">a\u200b1\nMKV\n", 1),
        "a mark of direction in an id": _odd(">a\u200f\nMKV\n", 1),
        "an id that begins with a no-break space": _odd(">\u00a0a\nMKV\n", 1),
        "half a character": _odd(b">a\nMK\xe2\x80V\n", 2, asked="unk"),
    },
}
