"""The vocabulary that a model's config.json describes, against that of its family."""

from __future__ import annotations

import pytest

from seqembed.errors import ModelError
from seqembed.models.vocabularies import Vocabulary
from seqembed.models.weights.vocabulary import check_vocabulary

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
