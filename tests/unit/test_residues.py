"""What a model does not know of residues, and files of the other molecule."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest
from described_models import DNA_TOKENIZER
from hypothesis import given
from hypothesis import strategies as st

from seqembed.checks.residues import ResidueCheck
from seqembed.checks.tally import find_unknown
from seqembed.errors import FastaError, ResidueError
from seqembed.models.encoders.tokenization import ESM2_LETTERS, BpeTokenizer

ASKED = ("error", "unk", "skip")
DNA_LETTERS = BpeTokenizer(DNA_TOKENIZER).letters


def make_check(
    molecule: str, asked: str, gaps: str = "error", suspicious: str = "error"
) -> ResidueCheck:
    letters = ESM2_LETTERS if molecule == "protein" else DNA_LETTERS
    return ResidueCheck(letters, molecule, asked, gaps=gaps, suspicious=suspicious)


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


def refusal(folder: Path, check: ResidueCheck, *contents: bytes) -> str:
    with pytest.raises((ResidueError, FastaError)) as caught:
        read_all(folder, check, *contents)
    return str(caught.value)


@pytest.mark.parametrize(
    ("residues", "letters", "expected"),
    [
        (b"MKV", ESM2_LETTERS, None),
        (b"BZUOX-.", ESM2_LETTERS, None),
        (b"MKJ", ESM2_LETTERS, ("'J' at 3", 1)),
        (b"M1KJ1", ESM2_LETTERS, ("'1' at 2", 3)),
        (b"M*K", ESM2_LETTERS, ("'*' at 2", 1)),
        (b"M\xc3K", ESM2_LETTERS, ("byte 0xc3 at 2", 1)),
        ("M\u200bK\u200b".encode(), ESM2_LETTERS, ("U+200B ZERO WIDTH SPACE at 2", 2)),
        (b"\0MK", ESM2_LETTERS, ("byte 0x00 at 1", 1)),
        (b"M" * 1234 + b"JJ", ESM2_LETTERS, ("'J' at 1,235", 2)),
        (b"ACGT", DNA_LETTERS, None),
        (b"ACGTN", DNA_LETTERS, ("'N' at 5", 1)),
        (b"ACGU", DNA_LETTERS, ("'U' at 4", 1)),
        (b"ACGR-", DNA_LETTERS, ("'R' at 4", 2)),
    ],
)
def test_find_unknown(residues, letters, expected):
    found = find_unknown(residues, letters)
    assert (found and (str(found), found.count)) == expected


@given(st.binary(max_size=60))
def test_unknown_is_the_first_and_all_are_counted(residues):
    others = [(place, byte) for place, byte in enumerate(residues, 1) if byte not in ESM2_LETTERS]
    found = find_unknown(residues, ESM2_LETTERS)
    if not others:
        assert found is None
    else:
        text = bytes(byte for _, byte in others).decode(errors="surrogateescape")
        assert (found.position, found.count) == (others[0][0], len(text))


@pytest.mark.parametrize("asked", ASKED)
@pytest.mark.parametrize(
    ("molecule", "content", "residues"),
    [
        ("protein", b">a\nmkvBZUOXmkvllg\n>b\nM*\n>c\nM.\n", [b"MKVBZUOXMKVLLG", b"M", b"M"]),
        ("DNA", b">a\nacgt\nACGT\n>b\nA\n", [b"ACGTACGT", b"A"]),
    ],
)
def test_what_the_model_knows_passes(tmp_path, molecule, content, residues, asked):
    check = make_check(molecule, asked)
    found = read_all(tmp_path, check, content, gzip.compress(content))
    assert [row[1:] for row in found] == [(text, None) for text in residues] * 2
    assert check.summary() is None


FIRST, SECOND = b">a\nMKV\n>b x\nMJK\nJJ\n", b">c\nLW\n\n>d\nM*K*\n"


def test_error_names_counts_places_and_key(tmp_path):
    text = refusal(tmp_path, make_check("protein", "error"), FIRST, SECOND)
    assert text.startswith("the model does not know 4 residues of 2 sequences ('J' 3, '*' 1)")
    for part in (
        "`embedding: {invalid_residues: unk}`",
        "`skip` to leave these sequences out",
        "a stop may only end a sequence",
        f"{tmp_path}/0.fa, line 3, record 'b': 'J' at 2 (3 such)",
        f"{tmp_path}/1.fa, line 4, record 'd': '*' at 2",
    ):
        assert part in text
    assert "'a'" not in text
    assert "'c'" not in text


def test_error_says_of_dna_with_n_what_it_is(tmp_path):
    content = b">c1\nACGTNNNNAC\n>c2\nACGT\n"
    text = refusal(tmp_path, make_check("DNA", "error"), content)
    assert text.startswith("sequences hold N, as contigs often do: the model does not know 4 resid")
    assert "1 sequence ('N' 4)" in text
    assert "RNA" not in text
    rna = refusal(tmp_path, make_check("DNA", "error"), b">r\nacgu\n")
    assert rna.startswith("the model does not know 1 residue of 1 sequence ('U' 1)")
    assert "RNA can be written with T for U" in rna


def test_unk_lets_all_pass_and_tells(tmp_path):
    check = make_check("protein", "unk")
    found = read_all(tmp_path, check, FIRST, SECOND)
    assert found == [
        ("a", b"MKV", None),
        ("b", b"MJKJJ", None),
        ("c", b"LW", None),
        ("d", b"M*K", None),
    ]
    assert check.summary().startswith("the model does not know 4 residues of 2 sequences")
    assert "read as its unknown token" in check.summary()
    assert "record 'd': '*' at 2" in check.summary()


def test_skip_gives_reasons_and_tells(tmp_path):
    check = make_check("protein", "skip")
    reasons = [reason for _, _, reason in read_all(tmp_path, check, FIRST, SECOND)]
    assert reasons == [
        None,
        "residue 'J' at 2 is unknown to the model (3 such)",
        None,
        "residue '*' at 2 is unknown to the model (1 such)",
    ]
    assert check.summary().startswith("2 of 4 sequences are left out")


def test_skip_of_every_sequence_is_an_error(tmp_path):
    text = refusal(tmp_path, make_check("DNA", "skip"), b">a\nNA\n", b">b\nAN\n")
    assert text.startswith("sequences hold N, as contigs often do: `invalid_residues: skip` leaves")
    assert "2 residues of 2 sequences" in text
    assert "{invalid_residues: unk}" in text
    assert "or `skip`" not in text
    read_all(tmp_path, make_check("DNA", "unk"), b">a\nNA\n", b">b\nAN\n")
    make_check("DNA", "skip").finish()


@pytest.mark.parametrize(("count", "shown"), [(10, 10), (11, 10), (500, 10)])
def test_the_first_ten_places_are_told(tmp_path, count, shown):
    content = b"".join(b">s%d\nMJ\n" % number for number in range(count))
    text = refusal(tmp_path, make_check("protein", "error"), content)
    assert f"{count} residues of {count} sequences" in text
    assert text.count(", record '") == shown
    assert "'s9'" in text
    assert "'s10'" not in text


def test_messages_stay_small_and_on_one_line(tmp_path):
    body = bytes(byte for byte in range(32, 256) if chr(byte) not in ">\x7f")
    records = [
        b">%d" % n + "\x1b[2J\x07\u202e'\U000e0001".encode() * 60 + b" d\n" + body * 9 + b"\n"
        for n in range(30)
    ]
    for asked, places in (("error", 1), ("skip", 10)):
        text = refusal(tmp_path, make_check("protein", asked), b"".join(records))
        assert len(text) < 12_000
        assert text.isprintable()
        assert text.count(", record ") == places


def test_a_long_path_is_cut(tmp_path):
    folder = tmp_path / ("d" * 220)
    folder.mkdir()
    text = refusal(folder, make_check("protein", "error"), b">a\nMJ\n")
    assert f"; the first: ...{'d' * 195}/0.fa, line 1, record 'a'" in text


PROTEIN = b">p\n" + b"MKVLWEDRSTAGQIPFYNHC" * 5
DNA = b">d\n" + b"acgtn" * 20


@pytest.mark.parametrize("asked", ASKED)
@pytest.mark.parametrize(
    ("molecule", "own", "other", "message"),
    [
        ("protein", PROTEIN, DNA, "looks like DNA or RNA (100% of its 100 letters are in ACGTUN)"),
        ("protein", PROTEIN, b">a\n" + b"ACGUN" * 19 + b"RYKWS", "looks like DNA or RNA (95%"),
        ("DNA", b">d\n" + b"ACGT" * 40, PROTEIN, "looks like proteins (30% of its 100 letters"),
    ],
)
def test_the_other_molecule_is_refused_in_any_file(tmp_path, molecule, own, other, message, asked):
    for contents in ([other], [own, other]):
        with pytest.raises(FastaError) as caught:
            read_all(tmp_path, make_check(molecule, asked), *contents)
        assert caught.value.path == tmp_path / f"{len(contents) - 1}.fa"
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
def test_what_is_not_plainly_the_other_molecule_passes(tmp_path, molecule, content):
    assert read_all(tmp_path, make_check(molecule, "unk"), content)
