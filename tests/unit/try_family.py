"""Embed two sequences of a family's letters with a model's folder, alone and together.

PYTHONPATH=workflow/scripts python tests/unit/try_family.py FOLDER
"""

import sys
from pathlib import Path

import torch
from models_in_plain import embed, encode

from seqembed.models.encoders.tokenization import ResidueTokenizer, complete_vocabulary
from seqembed.models.weights.build import build_model, check_checkpoint
from seqembed.models.weights.checkpoint import read_checkpoint


def main() -> None:
    checkpoint = read_checkpoint(Path(sys.argv[1]))
    check_checkpoint(checkpoint)
    family = checkpoint.layout.family
    vocabulary = family.vocabulary
    if family.reads_tokenizer:
        vocabulary = complete_vocabulary(vocabulary, Path(sys.argv[1]) / "tokenizer.json")
    tokenizer = ResidueTokenizer(vocabulary)
    encoder = build_model(checkpoint, checkpoint.architecture.layers)
    one, two = encode([tokenizer.letters * 6, tokenizer.letters[::-1] * 8], tokenizer)
    (rows,) = embed(encoder, [one])
    print(rows)
    assert torch.equal(embed(encoder, [two, one])[1], rows), "a row depends on its batch"


if __name__ == "__main__":
    main()
