"""Embed two sequences of a family's letters with a model's folder, alone and together.

PYTHONPATH=workflow/scripts python tests/unit/try_family.py FOLDER
"""

import sys
from pathlib import Path

import torch

from seqembed.models.encoders.attention import Packing
from seqembed.models.encoders.encoder import Encoder
from seqembed.models.encoders.tokenization import ResidueTokenizer
from seqembed.models.weights.build import build_model, check_checkpoint
from seqembed.models.weights.checkpoint import read_checkpoint


def embed(
    encoder: Encoder, tokenizer: ResidueTokenizer, *sequences: bytes
) -> tuple[torch.Tensor, ...]:
    """The rows of all tokens of each sequence, special tokens included."""
    tokens = [torch.from_numpy(tokenizer.encode(residues)) for residues in sequences]
    lengths = [len(own) for own in tokens]
    with torch.inference_mode():
        return encoder(torch.cat(tokens), Packing.of(lengths)).split(lengths)


def main() -> None:
    checkpoint = read_checkpoint(Path(sys.argv[1]))
    check_checkpoint(checkpoint)
    tokenizer = ResidueTokenizer(checkpoint.layout.family.vocabulary)
    encoder = build_model(checkpoint, checkpoint.architecture.layers)
    one, two = tokenizer.letters * 6, tokenizer.letters[::-1] * 8
    (rows,) = embed(encoder, tokenizer, one)
    print(rows)
    assert torch.equal(embed(encoder, tokenizer, two, one)[1], rows), "a row depends on its batch"


if __name__ == "__main__":
    main()
