"""The vocabulary that a model's files describe, against that of its family."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from seqembed.errors import ModelError
from seqembed.models.vocabularies import PROST_T5, PROT_T5, Vocabulary
from seqembed.models.weights.vocabulary import check_vocabulary, read_pieces

# The file of sentencepiece's own trainer (tests/data/make_spiece_model.py).
SPIECE = Path(__file__).parents[1] / "data/prot_t5/spiece.model"
PIECES = SPIECE.read_bytes()

# As a T5's: no token is masked, and none stands before a sequence.
UNMASKED = Vocabulary(
    name="unmasked",
    tokens=("<pad>", "</s>", "<unk>", *"ACGT"),
    size=7,
    letters=b"ACGT",
    before=(),
    after=("</s>",),
)


def test_a_vocabulary_need_not_have_a_token_for_masks(tmp_path):
    config = {"vocab_size": 7, "pad_token_id": 0, "mask_token_id": 9}
    check_vocabulary(tmp_path / "config.json", config, UNMASKED, "Unmasked")


def test_another_number_of_a_token_that_it_has_is_refused(tmp_path):
    config = {"vocab_size": 7, "pad_token_id": 1}
    with pytest.raises(ModelError, match="pad_token_id is 1, but 0 in Unmasked"):
        check_vocabulary(tmp_path / "config.json", config, UNMASKED, "Unmasked")


def test_the_pieces_of_sentencepieces_own_file_are_prott5s():
    ids = read_pieces(SPIECE)
    assert list(ids) == list(PROT_T5.tokens)
    assert list(ids.values()) == [*range(28)]


def read_bytes(content: bytes) -> dict[str, int] | None:
    """The pieces of a file with this content; None if it is refused."""
    with tempfile.NamedTemporaryFile() as file:
        Path(file.name).write_bytes(content)
        try:
            return read_pieces(Path(file.name))
        except ModelError:
            return None


def test_a_file_that_was_cut_gives_the_first_pieces_or_none():
    for stop in range(len(PIECES)):
        found = read_bytes(PIECES[:stop])
        assert found is None or list(found) == list(PROT_T5.tokens[: len(found)]), stop


# A group, a piece of a size beyond the file's, and one without a text.
@example(b"\x0b", 0, 0)
@example(b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\x7f", 0, 0)
@example(b"\x0a\x02\x18\x03", 0, 0)
@given(st.binary(max_size=40), st.integers(0, len(PIECES)), st.integers(0, 20))
def test_damaged_files_are_refused_or_read(damage, place, lost):
    """A file that is refused raises ModelError, as read_bytes expects."""
    read_bytes(PIECES[:place] + damage + PIECES[place + lost :])


@pytest.mark.parametrize(("count", "refused"), [(9, False), (10, True)])
def test_a_number_has_ten_bytes_at_most(count, refused):
    """So that the time to read a file grows with its size only. The number is that of a field."""
    assert (read_bytes(b"\x80" * count + b"\x00" + b"\x00" + PIECES) is None) == refused


def test_pieces_and_added_tokens_make_one_alphabet(tmp_path):
    config = {"vocab_size": 150, "pad_token_id": 0, "eos_token_id": 1}
    (tmp_path / "spiece.model").write_bytes(PIECES)
    added = {token: number for number, token in enumerate(PROST_T5.tokens) if number >= 128}
    (tmp_path / "added_tokens.json").write_text(json.dumps(added))
    check_vocabulary(tmp_path / "config.json", config, PROST_T5, "ProstT5")
