"""What is a T5's alone: buckets of distances, and values over fp16's range."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from batch_runs import gather, outputs, pack, runner_of, tracker_of
from models_in_plain import encode, random_proteins
from t5_in_plain import save_encoder, t5_model
from torch import Tensor
from transformers import T5EncoderModel
from transformers.models.t5.modeling_t5 import T5Attention

from seqembed.flags import FP32_RETRY
from seqembed.inference.runner import TOO_LARGE
from seqembed.models.architectures import ProtT5Architecture
from seqembed.models.encoders.encoder import Encoder
from seqembed.models.encoders.t5 import distance_buckets
from seqembed.models.encoders.tokenization import ResidueTokenizer
from seqembed.models.families import FAMILIES
from seqembed.models.vocabularies import PROT_T5
from seqembed.models.weights.build import build_model
from seqembed.models.weights.checkpoint import read_checkpoint
from seqembed.settings.lengths import LengthPolicy

SHAPE = ProtT5Architecture(6, 128, 4, 512, 32, "relu", 32, 128, 128)
TOKENIZER = ResidueTokenizer(PROT_T5)
SPECIALS = FAMILIES["prot_t5"].specials
FULL = LengthPolicy(long_sequences="full", max_length=0, specials=SPECIALS)
SEQUENCES = [sequence.decode() for sequence in random_proteins([300, 150, 60, 7])]


@pytest.mark.parametrize("buckets", [32, 64])
@pytest.mark.parametrize("most", [127, 128, 129, 500])
def test_distances_have_transformers_buckets(buckets, most):
    distances = torch.arange(-2 * most, 2 * most + 1)
    theirs = T5Attention._relative_position_bucket(distances, True, buckets, most)
    ours = distance_buckets(buckets, most)[distances.clamp(-most, most) + most]
    assert torch.equal(ours, theirs) and ours.max() == buckets - 1


def scaled(factor: float) -> T5EncoderModel:
    """A model whose rows between layers are `factor` times as large; its last rows do not change.

    What a layer adds is a product with one of these weights, of rows that were normed.
    """
    model = t5_model(SHAPE)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name == "shared.weight" or name.endswith(("SelfAttention.o.weight", ".wo.weight")):
                weight.mul_(factor)
    return model


def ours(theirs: T5EncoderModel, dtype: torch.dtype, layer: int = SHAPE.layers) -> Encoder:
    """The same weights in our encoder."""
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = read_checkpoint(save_encoder(theirs, SHAPE, Path(folder)))
        return build_model(checkpoint, layer, dtype)


def mean_rows(model: T5EncoderModel) -> np.ndarray:
    """transformers' rows, each of its sequence alone."""
    rows: list[Tensor] = []
    with torch.inference_mode():
        for tokens in encode([sequence.encode() for sequence in SEQUENCES], TOKENIZER):
            rows.append(model(tokens[None]).last_hidden_state[0, :-1].float().mean(0))
    return torch.stack(rows).numpy()


def run(theirs: T5EncoderModel, sequences: Sequence[str]) -> tuple[np.ndarray, list[int]]:
    """The rows of a worker that computes in fp16, and their flags."""
    half, whole = ours(theirs, torch.float16), ours(theirs, torch.float32)
    wanted = outputs(specials=SPECIALS)
    runner = runner_of(half, len(sequences), wanted, precise=whole)
    parts = [*runner.run(pack(sequences, 4096, FULL, TOKENIZER))]
    flags = np.concatenate([part.flags for part in parts])
    return gather(parts, len(sequences))[0], flags.tolist()


def test_rows_between_layers_may_be_over_fp16s_range():
    """transformers clamps them there, which gives finite rows of nothing."""
    theirs = scaled(2.0**12)
    (found, flags), exact = run(theirs, SEQUENCES), mean_rows(theirs)
    assert flags == [0] * len(SEQUENCES) and np.abs(found - exact).max() < 0.02
    clamped = mean_rows(theirs.half())
    assert np.isfinite(clamped).all() and np.abs(clamped - exact).max() > 0.2


def test_what_a_layer_adds_over_fp16s_range_is_computed_again_in_fp32():
    theirs = scaled(2.0**16)
    found, flags = run(theirs, SEQUENCES)
    assert flags == [FP32_RETRY] * len(SEQUENCES)
    np.testing.assert_allclose(found, mean_rows(theirs), atol=1e-4)


def test_ordinary_rows_are_not_computed_again():
    sequences = [sequence.decode() for sequence in random_proteins([*range(5, 245, 2)])]
    assert len(sequences) == 120 and not any(run(scaled(1.0), sequences)[1])


def test_rows_of_an_inner_layer_that_float16_cannot_hold_say_so(tmp_path):
    theirs, tracker = scaled(2.0**16), tracker_of(len(SEQUENCES), tmp_path)
    wanted = outputs(per_residue=True, storage="float16", specials=SPECIALS)
    model = ours(theirs, torch.float32, layer=SHAPE.layers - 1)
    runner = runner_of(model, len(SEQUENCES), wanted, tracker)
    parts = [*runner.run(pack(SEQUENCES, 4096, FULL, TOKENIZER))]
    assert not any(len(part.positions) for part in parts)
    assert [*tracker.known.quarantined.values()] == [TOO_LARGE] * len(SEQUENCES)
