"""Parsing many records of a block at a time."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seqembed.fasta.records import Record, cut_header, parse

HEADERS = [b">b c", b">b c\r", b"> d", b">", b">e\tf", b">g  h ", b">\xc3\xa9", b">\xff"]
HEADERS += [b">j\x01k l", b">\x0cm", b">i" + b"i" * 300]
LINES = [b"MKV", b"mk*", b"*", b".", b"M.", b"M-.", b"--", b"", b" ", b"M K", b"M>K", b";", b"M\0"]
LINES += [b"\x7f", b"\xc3", b"M\r", b"M\rK", b"\r"]
BLOCKS = st.builds(
    lambda lines, end: b"\n".join([b">a", *lines]) + end,
    st.lists(st.sampled_from(HEADERS + LINES)),
    st.sampled_from([b"\n", b""]),
)


@settings(max_examples=500)
@given(BLOCKS, st.booleans())
def test_records_of_a_block_equal_those_parsed_alone(block, without_gaps):
    records = parse(block, 7, 100, without_gaps=without_gaps)
    line, offset, odd = 7, 100, []
    for number, record in enumerate(records):
        raw = records.raw(number)
        alone = parse(raw, line, offset, without_gaps=without_gaps)
        assert list(alone) == [record] == [records[number]]
        assert alone.lengths.tolist() == [len(record.residues)] == [records.lengths[number]]
        odd += [number] * len(alone.odd)
        line, offset = line + raw.count(b"\n"), offset + len(raw)
    assert offset == 100 + len(block)
    assert set(odd) <= set(records.odd)
    if records.headers and all(header.isascii() for header in records.headers):
        assert odd == records.odd


def test_usual_records_are_not_odd():
    block = b">a b > c \nMKV\nL*\n\n>b\nM**\n>c *\nXJ"
    records = parse(block, 3, 50)
    assert list(records) == [
        Record("a", "b > c", b"MKVL", 3, 50),
        Record("b", "", b"M*", 7, 68),
        Record("c", "*", b"XJ", 9, 75),
    ]
    assert records.odd == []
    assert records.raw(1) == b">b\nM**\n"


@pytest.mark.parametrize(
    "record",
    [b">a", b">a\n", b">a\n*\n", b">a\nM\rK\n", b">a\n M\n", b">a\nm\n", b">a\n;\nM\n", b">a\nM>\n"]
    + [b">a\nM-\n", b">a\n\0\n", b">\nM\n", b"> a\nM\n", b">a\tb\nM\n", b">\xff\nM\n"]
    + [b">a\x01b\nM\n", b">a\nM1\n", b">a\nM\xc2\xa0\n", b">a\nM\x02\n"]
    + [b">" + b"i" * 1025 + b"\nM\n"],
)
def test_faulty_records_are_odd(record):
    records = parse(b">x\nM\n" + record + b"\n>y\nM\n", 1, 0)
    assert 1 in records.odd


@pytest.mark.parametrize(
    ("residues", "kept", "without_gaps"),
    [
        (b"MKV*", b"MKV", b"MKV"),
        (b"MKV.", b"MKV", b"MKV"),
        (b"MK.V", b"MK.V", b"MKV"),
        (b"MKV..", b"MKV..", b"MKV"),
        (b"MK-.", b"MK-.", b"MK"),
        (b"M-K*--", b"M-K*--", b"MK"),
        (b"MKV*.", b"MKV*", b"MKV"),
        (b"MKV.*", b"MKV.", b"MKV"),
        (b".", b"", b""),
        (b"--", b"--", b""),
    ],
)
def test_stops_and_gaps(residues, kept, without_gaps):
    for ignored, expected in ((False, kept), (True, without_gaps)):
        block = b">a - .\n" + residues + b"\n>b-.\nW\n"
        records = parse(block, 1, 0, without_gaps=ignored)
        assert records.residues == [expected, b"W"]
        assert records.headers == ["a - .", "b-."]


@pytest.mark.parametrize(
    ("header", "sequence_id", "description"),
    [
        ("a", "a", ""),
        ("a b c", "a", "b c"),
        ("a\tb", "a", "b"),
        ("a\u00a0b", "a", "b"),
        ("a\u3000 b", "a", "b"),
        ("a\x01b c", "a", "b c"),
        ("WP_1.1 x [Y]\x01WP_2.1 x [Z]", "WP_1.1", "x [Y]\x01WP_2.1 x [Z]"),
        ("a\x0bb\u2028c", "a\x0bb\u2028c", ""),
    ],
)
def test_a_blank_ends_an_id(header, sequence_id, description):
    assert cut_header(header) == (sequence_id, description)
    records = parse(f">{header}\nM\n".encode(), 1, 0)
    assert (records.sequence_ids, records.descriptions) == ([sequence_id], [description])
