"""Inference: batches in order, non-finite rows refused, and a row's bits its own."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from worker_runs import make_sequences

from seqembed.batches import PackedBatch, RawBatch, VarlenCollator, plan_batches, plan_passes
from seqembed.errors import NonFiniteError
from seqembed.inference import AsyncInferenceRunner, Outputs
from seqembed.long_sequences import LengthPolicy
from seqembed.models.architecture import Architecture, DnabertArchitecture, Esm2Architecture
from seqembed.models.attention import Packing
from seqembed.models.dnabert_s import DnabertS
from seqembed.models.esm2 import Esm2
from seqembed.models.tokenization import Esm2Tokenizer

CPU = torch.device("cpu")
# The second is no multiple of any vector's width.
SMALL = [
    Esm2Architecture(3, 64, 4, 256),
    Esm2Architecture(2, 36, 3, 52),
    DnabertArchitecture(2, 48, 6, 96, 30),
]
# The widths of t6, t12, t30, t33 and DNABERT-S, of which layers do not differ.
TRUE_WIDTHS = [
    *(Esm2Architecture(1, width, 20, 4 * width) for width in (320, 480, 640, 1280)),
    DnabertArchitecture(1, 768, 12, 3072, 30),
]
TRUNCATE = LengthPolicy(long_sequences="truncate", max_length=1022)
WINDOW = LengthPolicy(long_sequences="window", max_length=60)


def name_of(architecture: Architecture) -> str:
    return f"{type(architecture).__name__[:4]} {architecture.width} wide"


def outputs(pooling: str = "mean", per_residue: bool = False, storage: str = "float32") -> Outputs:
    return Outputs(pooling=pooling, pools_specials=False, per_residue=per_residue, storage=storage)


@functools.cache
def model_of(architecture: Architecture) -> nn.Module:
    torch.manual_seed(11)
    kind = Esm2 if isinstance(architecture, Esm2Architecture) else DnabertS
    model = kind(architecture, architecture.layers).eval().requires_grad_(False)
    for layer in model.layers:
        # Attention far from flat: else neighbours would not be noticed.
        layer.qkv.weight.mul_(3)
    return model


def encode(residues: bytes) -> np.ndarray:
    """ESM-2's tokens, all below 30: they do for DNABERT-S, too."""
    return Esm2Tokenizer().encode(residues)


def pack(
    sequences: Sequence[str], budget: int, policy: LengthPolicy = TRUNCATE
) -> Iterable[PackedBatch]:
    """The sequences, in their order, in batches."""
    collate = VarlenCollator(encode, policy)
    residues = [sequence.encode() for sequence in sequences]
    tokens = np.array([len(r) for r in residues])
    bounds = plan_batches(policy.read(tokens), budget)
    at_once = max(1, budget // (policy.max_length + 2))
    batches = np.arange(len(bounds) - 1)
    passes = plan_passes(bounds, batches, policy.windows(tokens), at_once)
    for batch, begin in zip(*(part.tolist() for part in passes), strict=True):
        start, stop = bounds[batch], bounds[batch + 1]
        end = begin + at_once if stop - start == 1 else None
        yield collate(RawBatch(np.arange(start, stop), residues[start:stop], (begin, end)))


def embed(
    architecture: Architecture,
    sequences: Sequence[str],
    budget: int = 4096,
    threads: int = 1,
    policy: LengthPolicy = TRUNCATE,
    wanted: Outputs | None = None,
) -> tuple[np.ndarray, list[np.ndarray]]:
    """(N, D) rows in the order of the sequences, and the (n, D) token rows of each."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        runner = AsyncInferenceRunner(model_of(architecture), CPU, wanted or outputs())
        parts = list(runner.run(pack(sequences, budget, policy)))
    finally:
        torch.set_num_threads(before)
    positions = np.concatenate([part.positions for part in parts])
    assert positions.tolist() == list(range(len(sequences)))
    residues: list[list[np.ndarray]] = [[] for _ in sequences]
    for part in parts:
        for position, rows in part.residues:
            residues[position].append(rows)
    tokens = [np.concatenate(found) for found in residues if found]
    return np.concatenate([part.rows for part in parts]), tokens


@functools.cache
def alone(
    architecture: Architecture, sequence: str, policy: LengthPolicy, wanted: Outputs
) -> tuple[bytes, bytes]:
    """The bytes of a sequence's row, and of its token rows, in a batch with the dummy alone."""
    rows, tokens = embed(architecture, [sequence], 1 << 20, 1, policy, wanted)
    return rows[0].tobytes(), b"".join(found.tobytes() for found in tokens)


# From 32,768 numbers on, PyTorch shares the work of one mean out among threads.
LENGTHS = st.one_of(st.integers(1, 20), st.integers(1, 300), st.integers(915, 1022))
POOL = {n: make_sequences([n], seed=n)[0] for n in range(1, 1023)}
WANTED = st.builds(
    outputs, pooling=st.sampled_from(["mean", "cls", "max"]), per_residue=st.booleans()
)


def assert_own(
    architecture: Architecture,
    lengths: Sequence[int],
    budget: int,
    threads: int,
    policy: LengthPolicy,
    wanted: Outputs,
) -> None:
    """Each row among others is, to the bit, that of its sequence alone."""
    sequences = [POOL[n] for n in lengths]
    rows, tokens = embed(architecture, sequences, budget, threads, policy, wanted)
    for number, sequence in enumerate(sequences):
        found = rows[number].tobytes(), tokens[number].tobytes() if wanted.per_residue else b""
        assert found == alone(architecture, sequence, policy, wanted), len(sequence)


@pytest.mark.parametrize("architecture", SMALL, ids=name_of)
@settings(max_examples=8, deadline=None)
@given(
    lengths=st.lists(LENGTHS, min_size=1, max_size=12, unique=True),
    budget=st.sampled_from([1, 140, 256, 900, 2048, 8192]),
    threads=st.sampled_from([1, 2]),
    policy=st.sampled_from([TRUNCATE, WINDOW]),
    wanted=WANTED,
)
def test_a_row_is_a_function_of_its_sequence_to_the_bit(
    architecture, lengths, budget, threads, policy, wanted
):
    assert_own(architecture, lengths, budget, threads, policy, wanted)


@pytest.mark.parametrize("architecture", TRUE_WIDTHS, ids=name_of)
@settings(max_examples=2, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 300), min_size=2, max_size=5, unique=True),
    budget=st.sampled_from([140, 900, 2048]),
    threads=st.sampled_from([1, 2]),
    policy=st.sampled_from([TRUNCATE, WINDOW]),
)
def test_a_row_is_its_own_at_true_widths(architecture, lengths, budget, threads, policy):
    assert_own(architecture, lengths, budget, threads, policy, outputs(per_residue=True))


@pytest.mark.parametrize("architecture", SMALL, ids=name_of)
def test_every_short_sequence_alone_and_among_all(architecture):
    sequences = [POOL[n] for n in range(1, 140, 3)]
    for threads in (1, 2):
        rows, _ = embed(architecture, sequences, 8192, threads)
        assert len({row.tobytes() for row in rows}) == len(sequences)
        for sequence, row in zip(sequences, rows, strict=True):
            assert row.tobytes() == alone(architecture, sequence, TRUNCATE, outputs())[0]


def plain_rows(architecture: Architecture, sequence: str) -> np.ndarray:
    """The (n + 2, D) rows of a sequence, or a window, by itself."""
    tokens = torch.from_numpy(encode(sequence.encode()))
    with torch.inference_mode():
        rows = model_of(architecture)(tokens, Packing.of([len(tokens)]))
    return rows.numpy()


def stitched_rows(architecture: Architecture, sequence: str, policy: LengthPolicy) -> np.ndarray:
    """(n + 2, D): what each window keeps, the first's special in front, the last's behind."""
    windows = policy.cut(len(sequence))
    rows = [plain_rows(architecture, sequence[w.start : w.stop]) for w in windows]
    kept = [
        found[1 + w.keep_start - w.start : 1 + w.keep_stop - w.start]
        for w, found in zip(windows, rows, strict=True)
    ]
    return np.concatenate([rows[0][:1], *kept, rows[-1][-1:]])


@pytest.mark.parametrize("pools_specials", [False, True])
@pytest.mark.parametrize("pooling", ["mean", "cls", "max"])
@pytest.mark.parametrize("length", [1, 59, 60, 61, 90, 91, 300])
def test_rows_of_windows_are_put_together(length, pooling, pools_specials):
    architecture = SMALL[0]
    wanted = Outputs(
        pooling=pooling, pools_specials=pools_specials, per_residue=True, storage="float32"
    )
    expected = stitched_rows(architecture, POOL[length], WINDOW)
    pooled = {
        "mean": (expected if pools_specials else expected[1:-1]).mean(0),
        "max": (expected if pools_specials else expected[1:-1]).max(0),
        "cls": expected[0],
    }
    for budget in (62, 200, 4096):
        rows, tokens = embed(architecture, [POOL[length]], budget, 1, WINDOW, wanted)
        np.testing.assert_allclose(tokens[0], expected[1:-1], atol=2e-5)
        np.testing.assert_allclose(rows[0], pooled[pooling], atol=2e-5)


def test_half_storage_is_the_rounded_row():
    sequences = [POOL[n] for n in (70, 40, 300)]
    whole, tokens = embed(SMALL[0], sequences, wanted=outputs(per_residue=True))
    half, halves = embed(SMALL[0], sequences, wanted=outputs(per_residue=True, storage="float16"))
    assert half.dtype == halves[0].dtype == np.float16
    np.testing.assert_array_equal(half, whole.astype(np.float16))
    for a, b in zip(halves, tokens, strict=True):
        np.testing.assert_array_equal(a, b.astype(np.float16))


class Echo(nn.Module):
    """A model whose rows are the tokens; it notes how many batches it has seen."""

    def __init__(self, bad: dict[int, float] | None = None) -> None:
        super().__init__()
        self.bad, self.calls = bad or {}, 0

    def forward(self, tokens: torch.Tensor, packing: Packing) -> torch.Tensor:
        self.calls += 1
        assert torch.is_inference_mode_enabled()
        rows = tokens.float()[:, None].repeat(1, 3)
        rows[1] = self.bad.get(self.calls, rows[1])
        return rows


def test_batches_come_in_order_with_their_tokens_and_without_the_dummy():
    sequences = [POOL[n] for n in (130, 40, 50, 60, 3)]
    parts = list(AsyncInferenceRunner(Echo(), CPU, outputs()).run(pack(sequences, 160)))
    assert [part.positions.tolist() for part in parts] == [[0], [1, 2, 3], [4]]
    assert [part.tokens for part in parts] == [132, 42 + 52 + 62, 5]
    assert [part.rows.shape for part in parts] == [(1, 3), (3, 3), (1, 3)]
    assert {part.rows.dtype for part in parts} == {np.dtype(np.float32)}


def test_batches_are_asked_for_when_they_are_needed():
    model = Echo()
    rows = AsyncInferenceRunner(model, CPU, outputs()).run(pack([POOL[200]] * 4, 1))
    assert model.calls == 0
    next(rows)
    assert model.calls == 1


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_rows_that_are_not_finite_are_refused_after_those_before(value):
    rows = AsyncInferenceRunner(Echo({2: value}), CPU, outputs()).run(pack([POOL[50]] * 9, 160))
    assert next(rows).positions.tolist() == [0, 1, 2]
    with pytest.raises(NonFiniteError, match="rows 3 to 5 of the shard; .*fp32") as caught:
        next(rows)
    assert caught.value.positions == [3, 4, 5]


def test_what_half_storage_cannot_hold_is_refused():
    runner = AsyncInferenceRunner(Echo({1: 1e6}), CPU, outputs("max", storage="float16"))
    with pytest.raises(NonFiniteError, match="storage: float32"):
        list(runner.run(pack([POOL[50]], 160)))


def test_token_rows_that_are_not_finite_are_refused():
    # The pooled row is the first token's, and finite.
    runner = AsyncInferenceRunner(Echo({1: torch.inf}), CPU, outputs("cls", per_residue=True))
    with pytest.raises(NonFiniteError):
        list(runner.run(pack([POOL[50]], 160)))
