"""The trial of fused steps: on a GPU, otherwise in Triton's interpreter."""

from __future__ import annotations

import pytest
import torch
from families_table import TABLE

from seqembed.kernels import fused
from seqembed.models.architectures import DnabertArchitecture, Esm2Architecture, ProtT5Architecture
from seqembed.models.trial import BOUNDS, begin_trial, make_layer

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
DTYPES = [torch.float32, torch.float16]
if DEVICE.type == "cuda":
    DTYPES.append(torch.bfloat16)  # the interpreter cuts bf16 off where a GPU rounds it
SHAPE = Esm2Architecture(6, 96, 4, 384)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("member", TABLE, ids=lambda member: member.name)
def test_equal_steps_pass_with_room_to_spare(member, dtype, monkeypatch):
    monkeypatch.setitem(BOUNDS, dtype, BOUNDS[dtype] / 3)
    assert begin_trial(member.small[1], dtype, DEVICE)() is None


def keep(x, cos, sin):
    pass


def slightly_large(x, branch, norm):
    total, normed = add_norm(x, branch, norm)
    return total, normed * 1.5


def of_another(rows, spans, largest):
    return pool(rows, spans[::-1], largest)


def not_a_number(rows, spans, largest):
    return pool(rows, spans, largest) * (torch.nan if largest else 1)


add_norm, pool = fused.add_norm, fused.pool


@pytest.mark.parametrize(
    ("step", "broken", "named"),
    [
        ("rotate_", keep, "rows differ by"),
        ("add_norm", slightly_large, "rows differ by"),
        ("pool", of_another, "means differ by"),
        ("pool", not_a_number, "maxima differ by nan%"),
    ],
)
def test_a_step_that_computes_something_else_is_found(step, broken, named, monkeypatch):
    monkeypatch.setattr(fused, step, broken)
    # The widest of BOUNDS.
    difference = begin_trial(SHAPE, torch.bfloat16, DEVICE)()
    assert difference is not None and difference.startswith(named)


def test_a_small_vocabulary_can_be_tried():
    assert begin_trial(DnabertArchitecture(2, 64, 2, 128, 12), torch.float32, DEVICE)() is None


def test_a_trial_is_the_same_each_time_and_changes_no_random_number():
    shape = ProtT5Architecture(2, 64, 2, 128, 32, "relu", 32, 128, 128)
    before = torch.get_rng_state()
    one, other = (make_layer(shape, torch.float32, DEVICE).state_dict() for _ in range(2))
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_trial_has_all_weights_of_a_layer_in_the_models_dtype():
    model = make_layer(SHAPE, torch.float16, DEVICE)
    assert len(model.layers) == 1 and {w.dtype for w in model.parameters()} == {torch.float16}
    assert all(weight.float().std() > 0 for weight in model.parameters())
    assert model.inv_freq.dtype == torch.float32
