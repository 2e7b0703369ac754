"""Long sequences: windows cover each token once; what each policy reads, flags and refuses."""

from __future__ import annotations

import numpy as np
import pytest
from described_models import dna_model, protein_model
from hypothesis import given, settings
from hypothesis import strategies as st

from seqembed.errors import ConfigError
from seqembed.settings.lengths import LengthPolicy, Window, resolve_policy

ESM2, DNABERT_S = protein_model(), dna_model()


def policy(long_sequences: str, max_length: int) -> LengthPolicy:
    return LengthPolicy(long_sequences=long_sequences, max_length=max_length)


@pytest.mark.parametrize(
    ("tokens", "windows"),
    [
        (1, [Window(0, 1, 0, 1)]),
        (8, [Window(0, 8, 0, 8)]),
        (9, [Window(0, 8, 0, 5), Window(1, 9, 5, 9)]),
        (12, [Window(0, 8, 0, 6), Window(4, 12, 6, 12)]),
        (13, [Window(0, 8, 0, 6), Window(4, 12, 6, 9), Window(5, 13, 9, 13)]),
    ],
)
def test_windows(tokens, windows):
    assert policy("window", 8).cut(tokens) == windows


@settings(deadline=None)
@given(st.integers(1, 600), st.integers(1, 60))
def test_each_token_is_taken_once_from_where_it_is_farthest_from_an_edge(tokens, length):
    windows = policy("window", length).cut(tokens)
    kept = [t for w in windows for t in range(w.keep_start, w.keep_stop)]
    assert kept == list(range(tokens))
    assert {w.stop - w.start for w in windows} == {min(length, tokens)}
    steps = {b.start - a.start for a, b in zip(windows[:-1], windows[1:], strict=True)}
    assert max(steps, default=0) <= (length + 1) // 2

    def margin(token: int, window: Window) -> int:
        return min(token - window.start, window.stop - 1 - token)

    for window in windows:
        for token in range(window.keep_start, window.keep_stop):
            assert margin(token, window) == max(margin(token, other) for other in windows)


POLICIES = st.sampled_from(["window", "truncate", "full", "error"])


@given(st.lists(st.integers(1, 5000), max_size=30), st.integers(1, 1200), POLICIES)
def test_counts_agree_with_the_windows(lengths, limit, long_sequences):
    tokens = np.array(lengths, np.int64)
    chosen = policy(long_sequences, 0 if long_sequences == "full" else limit)
    cuts = [chosen.cut(n) for n in lengths]
    assert chosen.windows(tokens).tolist() == [len(cut) for cut in cuts]
    read = [sum(window.stop - window.start + 2 for window in cut) for cut in cuts]
    assert chosen.model_tokens(tokens).tolist() == read
    assert chosen.kept(tokens).tolist() == [cut[-1].keep_stop for cut in cuts]
    longest = max((window.stop - window.start for cut in cuts for window in cut), default=0)
    assert chosen.longest_read(tokens) == longest + 2


@pytest.mark.parametrize(
    ("chosen", "flags"),
    [
        (policy("window", 9), [0, 1, 1]),
        (policy("truncate", 9), [0, 2, 2]),
        (policy("full", 0), [0, 0, 0]),
        (policy("error", 9), [0, 0, 0]),
    ],
)
def test_flags(chosen, flags):
    found = chosen.flags(np.array([9, 10, 5000]))
    assert (found.tolist(), found.dtype) == (flags, np.uint8)


def test_error_counts_and_names_long_sequences():
    tokens = np.array([1500, 30, 12, 11, 10])
    with pytest.raises(ConfigError) as caught:
        policy("error", 11).refuse(tokens, "residues")
    message = str(caught.value)
    assert "3 of 5 sequences are longer than 11 residues (the longest has 1,500)" in message
    assert "`embedding: {long_sequences: window}` or `truncate`" in message

    def describe(rows: np.ndarray) -> list[str]:
        return [f"row {row}" for row in rows]

    with pytest.raises(ConfigError, match="11 tokens .*; the first are row 0, row 2;"):
        policy("error", 11).refuse(tokens[[0, 3, 2]], "tokens", describe)
    for chosen in (policy("truncate", 11), policy("window", 11), policy("full", 0)):
        chosen.refuse(tokens, "residues")
    policy("error", 1500).refuse(tokens, "residues")
    policy("error", 1).refuse(tokens[:0], "residues")


@pytest.mark.parametrize(
    ("model", "asked", "length", "found"),
    [
        (ESM2, "auto", "auto", policy("window", 1022)),
        (ESM2, "auto", 300, policy("window", 300)),
        (ESM2, "full", "auto", policy("full", 0)),
        (ESM2, "error", "auto", policy("error", 1022)),
        (DNABERT_S, "auto", "auto", policy("full", 0)),
        (DNABERT_S, "truncate", "auto", policy("truncate", 1998)),
        (DNABERT_S, "window", 512, policy("window", 512)),
    ],
)
def test_auto_follows_the_family(model, asked, length, found):
    assert resolve_policy(asked, length, model) == found


@pytest.mark.parametrize(("word", "length"), [("wrap", 5), ("window", 0), ("error", -1)])
def test_impossible_values_are_refused(word, length):
    with pytest.raises(ConfigError):
        policy(word, length)
