"""Residues that a model does not know, and files of the other molecule."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest
from described_models import DNA_TOKENIZER
from hypothesis import given
from hypothesis import strategies as st
from indexing import make_check

from seqembed.checks.residues import ResidueCheck, find_unknown
from seqembed.errors import FastaError, ResidueError
from seqembed.models.encoders.tokenization import BpeTokenizer
from seqembed.models.vocabularies import ESM, PROT_T5

ASKED = ("error", "unk", "skip")
DNA_LETTERS = BpeTokenizer(DNA_TOKENIZER).letters


def check_for(molecule: str, asked: str) -> ResidueCheck:
    return make_check(asked, molecule, ESM.letters if molecule == "protein" else DNA_LETTERS)


def read_all(
    folder: Path, check: ResidueCheck, *contents: bytes
) -> list[tuple[str, bytes, str | None]]:
    """What the check makes of files of these contents, one after the other."""
    found = []
    for number, content in enumerate(contents):
        path = folder / f"{number}.fa"
        path.write_bytes(content)
        found += [
            (r.sequence_id, r.residues, reason)
            for batch in check.read(path)
            for r, reason in zip(*batch, strict=True)
        ]
    check.finish()
    return found


def refusal(folder: Path, *contents: bytes, asked: str = "error") -> str:
    """Return what the check of a protein model says of such files."""
    with pytest.raises((ResidueError, FastaError)) as caught:
        read_all(folder, make_check(asked), *contents)
    return str(caught.value)


@given(st.binary(max_size=60))
def test_find_unknown_counts_all_and_names_the_first(residues):
    others = [(place, byte) for place, byte in enumerate(residues, 1) if byte not in ESM.letters]
    found = find_unknown(residues, ESM.letters)
    if not others:
        assert found is None
    else:
        text = bytes(byte for _, byte in others).decode(errors="surrogateescape")
        assert (found.position, found.characters) == (others[0][0], text)


@pytest.mark.parametrize("asked", ASKED)
@pytest.mark.parametrize(
    ("molecule", "content", "residues"),
    [
        ("protein", b">a\nmkvBZUOXmkvllg\n>b\nM*\n>c\nM.\n", [b"MKVBZUOXMKVLLG", b"M", b"M"]),
        ("DNA", b">a\nacgt\nACGT\n>b\nA\n", [b"ACGTACGT", b"A"]),
    ],
)
def test_known_residues_pass(tmp_path, molecule, content, residues, asked):
    check = check_for(molecule, asked)
    found = read_all(tmp_path, check, content, gzip.compress(content))
    assert [row[1:] for row in found] == [(text, None) for text in residues] * 2
    assert check.summary() is None


FIRST, SECOND = b">a\nMKV\n>b x\nMJK\nJJ\n", b">c\nLW\n\n>d\nM*K*\n"


def test_unknown_residues_are_counted_with_their_places(tmp_path):
    text = refusal(tmp_path, FIRST, SECOND)
    assert text.startswith("the model does not know 4 residues in 2 sequences (3 x 'J', 1 x '*')")
    for part in (
        "`embedding: {invalid_residues: unk}`",
        "`skip` to leave these sequences out",
        "which may only end a sequence",
        f"{tmp_path}/0.fa, line 3, record 'b': 'J' at 2 (3 in this record)",
        f"{tmp_path}/1.fa, line 4, record 'd': '*' at 2",
    ):
        assert part in text
    assert "'a'" not in text and "'c'" not in text


@pytest.mark.parametrize(
    ("asked", "reasons", "summary"),
    [
        ("unk", [None] * 4, "the model does not know 4 residues in 2 sequences"),
        ("skip", [None, "'J' at 2", None, "'*' at 2"], "2 of 4 sequences are left out"),
    ],
)
def test_allowed_residues_are_summed_up(tmp_path, asked, reasons, summary):
    check = make_check(asked)
    found = read_all(tmp_path, check, FIRST, SECOND)
    assert [text for _, text, _ in found] == [b"MKV", b"MJKJJ", b"LW", b"M*K"]
    for (_, _, reason), expected in zip(found, reasons, strict=True):
        assert expected in reason if expected else reason is None
    assert check.summary().startswith(summary)
    assert "record 'd': '*' at 2" in check.summary()


def test_the_first_ten_places_are_shown(tmp_path):
    content = b"".join(b">s%d\nMJ\n" % number for number in range(500))
    text = refusal(tmp_path, content)
    assert "500 residues in 500 sequences" in text
    assert text.count(", record '") == 10
    assert "'s9'" in text and "'s10'" not in text


@pytest.mark.parametrize(("letters", "keeps"), [(ESM.letters, True), (PROT_T5.letters, False)])
def test_gaps_are_kept_only_by_a_model_with_tokens_for_them(letters, keeps, tmp_path):
    with pytest.raises(ResidueError, match="set `gaps: remove`") as caught:
        read_all(tmp_path, make_check(letters=letters), b">a\nMK-V\n")
    assert ("or `gaps: keep`" in str(caught.value)) is keeps


def test_messages_stay_small_and_on_one_line(tmp_path):
    body = bytes(byte for byte in range(32, 256) if chr(byte) not in ">\x7f")
    records = [
        b">%d" % n + "\x1b[2J\x07\u202e'\U000e0001".encode() * 60 + b" d\n" + body * 9 + b"\n"
        for n in range(30)
    ]
    for asked, places in (("error", 1), ("skip", 10)):
        text = refusal(tmp_path, b"".join(records), asked=asked)
        assert len(text) < 12_000
        assert text.isprintable()
        assert text.count(", record ") == places


def test_a_long_path_is_cut(tmp_path):
    folder = tmp_path / ("d" * 220)
    folder.mkdir()
    text = refusal(folder, b">a\nMJ\n")
    assert f"; the first: ...{'d' * 195}/0.fa, line 1, record 'a'" in text


PROTEIN = b">p\n" + b"MKVLWEDRSTAGQIPFYNHC" * 5
DNA = b">d\n" + b"acgtn" * 20
MIXED = b">a\n" + b"ACGUN" * 19 + b"RYKWS"


@pytest.mark.parametrize(
    ("molecule", "asked", "own", "other", "message"),
    [
        ("protein", "skip", PROTEIN, DNA, "looks like DNA or RNA (100% of its 100 letters"),
        ("protein", "unk", PROTEIN, MIXED, "looks like DNA or RNA (95%"),
        ("DNA", "error", b">d\n" + b"ACGT" * 40, PROTEIN, "looks like proteins (30%"),
    ],
)
def test_files_of_the_other_molecule_are_refused(tmp_path, molecule, asked, own, other, message):
    with pytest.raises(FastaError) as caught:
        read_all(tmp_path, check_for(molecule, asked), own, other)
    assert caught.value.path == tmp_path / "1.fa"
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("molecule", "content"),
    [
        ("protein", b">a\n" + b"ACG" * 19),
        ("protein", b">a\n" + b"ACGT" * 25 + b"MKVLWE"),
        # Every code of IUPAC for nucleotides, and a little of what is none.
        ("DNA", b">a\n" + b"ACGTURYSWKMBDHVNX" * 20),
    ],
)
def test_files_that_may_be_of_the_molecule_pass(tmp_path, molecule, content):
    assert read_all(tmp_path, check_for(molecule, "unk"), content)
