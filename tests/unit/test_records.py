"""The fast way to records: it gives what the close look gives, or leaves the block to it."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seqembed.errors import FastaError
from seqembed.fasta import _parse_closely
from seqembed.records import Record, parse_clean

LINES = st.sampled_from(
    [
        b">a",
        b">b c",
        b">b c\r",
        b"> d",
        b">",
        b">e\tf",
        b">g  h ",
        b">\xc3\xa9",
        b">\xff",
        b">i" + b"i" * 300,
    ]
    + [
        b"MKV",
        b"mk*",
        b"*",
        b"",
        b" ",
        b"M K",
        b"M>K",
        b";",
        b"M;",
        b"M\0",
        b"\x7f",
        b"\xc3",
        b"M\r",
    ]
)
BLOCKS = st.builds(
    lambda lines, end: b"\n".join(lines) + end, st.lists(LINES), st.just(b"\n") | st.just(b"")
)


@settings(max_examples=500)
@given(BLOCKS)
def test_it_gives_what_the_close_look_gives(block):
    clean = parse_clean(block, 7, 100)
    if clean is not None:
        assert list(clean) == [r for part in _parse_closely(block, "a", 7, 100) for r in part]


def test_most_files_are_clean():
    block = b">a b > c \nmkv\nL*\n\n>\xc3\xa9\nM**\n>c *\nXJ1\xc3-."
    assert list(parse_clean(block, 3, 50)) == [
        Record("a", "b > c", b"MKVL", 3, 50),
        Record("é", "", b"M*", 7, 68),
        Record("c", "*", b"XJ1\xc3-.", 9, 76),
    ]


@pytest.mark.parametrize(
    "block",
    [b"", b"M\n>a\nM\n", b">a", b">a\n", b">a\n*\n", b">a*\n>b\nM\n", b">a\nM\r\n", b">a\n M\n"]
    + [
        b">a\n;\nM\n",
        b">a\nM>\n",
        b">a\n\0\n",
        b">\nM\n",
        b"> a\nM\n",
        b">a\tb\nM\n",
        b">\xff\nM\n",
        b">a b\r\nM\n",
    ],
)
def test_what_is_odd_is_left_to_the_close_look(block):
    assert parse_clean(block, 1, 0) is None


def test_records_before_a_fault_come_first():
    found = []
    with pytest.raises(FastaError, match="has no residues"):
        for part in _parse_closely(b">a\nM\n>b\nK\n>c\n", Path("x"), 1, 0):
            found += part
    assert [record.sequence_id for record in found] == ["a", "b"]
