"""DNABERT's tokenizer, and many sequences at once; test_families.py has each family's tokens."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from itertools import chain

import numpy as np
import pytest
from families_table import DNABERT_TOKENIZER
from hypothesis import given
from hypothesis import strategies as st
from models_in_plain import DNABERT_FILES, dnabert_tokenizer, random_dna
from t5_in_plain import ANKH3_TOKENS, ankh_tokenizer
from tokenizers import Tokenizer as TokenizerFile
from tokenizers.models import WordLevel
from worker_runs import SCRIPTS

from seqembed.errors import ModelError
from seqembed.models.encoders.tokenization import (
    BpeTokenizer,
    ResidueTokenizer,
    complete_vocabulary,
    limit_tokenizer_threads,
)
from seqembed.models.vocabularies import ANKH3, ESM

CLS, SEP, UNK, MASK = 1, 2, 0, 4
OURS, THEIRS = dnabert_tokenizer(), DNABERT_TOKENIZER


@pytest.mark.parametrize("tokenizer", [ResidueTokenizer(ESM), OURS], ids=["ESM-2", "DNABERT"])
@given(sequences=st.lists(st.binary(max_size=20) | st.text("MKVAGCT.-").map(str.encode)))
def test_tokens_of_many_sequences_are_those_of_each(tokenizer, sequences):
    found = tokenizer.encode_all(sequences)
    assert [tokens.tolist() for tokens in found] == [
        tokenizer.encode(s).tolist() for s in sequences
    ]
    assert {tokens.dtype for tokens in found} <= {np.dtype(np.int64)}


@pytest.mark.parametrize("length", [1, 2, 3, 17, 200, 2500, 30_000])
def test_dnaberts_tokens_are_transformers(length):
    (sequence,) = random_dna([length], seed=length)
    tokens = OURS.encode(sequence)
    assert tokens.dtype == np.int64
    assert tokens.tolist() == THEIRS(sequence.decode())["input_ids"]
    assert OURS.count(sequence) == len(tokens) - 2


@given(st.text(alphabet="ACGTNRYKM-*", max_size=60))
def test_dnaberts_tokens_are_transformers_whatever_the_letters(text):
    assert OURS.encode(text.encode()).tolist() == THEIRS(text)["input_ids"]


# In a process of its own: the library keeps the threads that it once started.
ENCODE = """
import os, sys
from pathlib import Path
from seqembed.models.encoders.tokenization import BpeTokenizer, limit_tokenizer_threads

limit_tokenizer_threads(os.environ, int(sys.argv[1]))
tokenizer = BpeTokenizer(Path(sys.argv[2]))
sequences = sys.stdin.read().encode().split()
before = len(os.listdir("/proc/self/task"))
found = tokenizer.encode_all(sequences)
print(len(os.listdir("/proc/self/task")) - before)
print(*(token for tokens in found for token in tokens.tolist()))
"""


@pytest.mark.parametrize("threads", [1, 3])
def test_threads_encode_at_once_and_give_the_same_tokens(threads):
    sequences = random_dna([1, 3, *range(100, 2000, 30)], seed=5)
    command = [sys.executable, "-c", ENCODE, str(threads), str(DNABERT_FILES / "tokenizer.json")]
    environment = {k: v for k, v in os.environ.items() if k != "RAYON_NUM_THREADS"}
    done = subprocess.run(
        command,
        env=environment | {"PYTHONPATH": str(SCRIPTS)},
        input=b" ".join(sequences).decode(),
        check=True,
        capture_output=True,
        text=True,
    )
    started, tokens = done.stdout.splitlines()
    assert int(started) == threads
    assert tokens.split() == [str(t) for t in chain.from_iterable(map(OURS.encode, sequences))]


def test_the_users_number_of_threads_stays():
    environ: dict[str, str] = {}
    for threads in (4, 1):
        limit_tokenizer_threads(environ, threads)
        assert environ == {"RAYON_NUM_THREADS": "4"}


@pytest.mark.parametrize("letter", [b"N", b"R", b"-", b"*", b"a", b" ", b"\x00", b"\xff"])
def test_each_unknown_letter_is_one_unknown_token(letter):
    assert OURS.encode(letter * 3).tolist() == [CLS, UNK, UNK, UNK, SEP]
    known = OURS.encode(b"A").tolist()[1:-1]
    assert OURS.encode(b"A" + letter + b"A").tolist() == [CLS, *known, UNK, *known, SEP]


def test_no_sequence_spells_a_special_token():
    assert MASK in THEIRS("[MASK]")["input_ids"]
    known = OURS.encode(b"A").tolist()[1:-1]
    assert OURS.encode(b"[MASK]").tolist() == [CLS, UNK, UNK, *known, UNK, UNK, UNK, SEP]
    assert OURS.encode(b"[SEP]").tolist() == [CLS, *[UNK] * 5, SEP]


def test_dnaberts_letters_are_those_it_has_tokens_for():
    assert OURS.letters == b"ACGT"


def test_a_file_that_is_no_tokenizer_is_refused(tmp_path):
    (tmp_path / "tokenizer.json").write_text("{}")
    said = {"tokenizer.json": "is not a tokenizer", "nowhere.json": "does not exist"}
    for name, words in said.items():
        path = tmp_path / name
        with pytest.raises(ModelError, match=f"{path}: {words}"):
            BpeTokenizer(path)


def test_a_tokenizer_must_know_letters_one_by_one(tmp_path):
    OURS.check(4096)
    content = json.loads((DNABERT_FILES / "tokenizer.json").read_text())
    path = tmp_path / "fused.json"
    path.write_text(json.dumps(content | {"model": content["model"] | {"fuse_unk": True}}))
    with pytest.raises(ModelError, match=r"\[UNK\] for each unknown letter"):
        BpeTokenizer(path).check(4096)


def test_letters_and_ids_are_those_of_the_models_own_file(tmp_path):
    """Ankh 3's: [NLU] first, letters without a token unknown, and no replacement by X."""
    path = tmp_path / "tokenizer.json"
    ankh_tokenizer((*ANKH3_TOKENS, "Z", "z", "▁A", "?"), "[NLU]").save(str(path))
    vocabulary = complete_vocabulary(ANKH3, path)
    assert vocabulary.letters == b"ABCDEFGHIKLMNPQRSTUVWXYZ"
    nlu, end, unknown = 3, 1, 2
    letters = [ANKH3_TOKENS.index(letter) for letter in "MKX"]
    tokens = ResidueTokenizer(vocabulary).encode(b"MKXZOz?").tolist()
    assert tokens == [nlu, *letters, len(ANKH3_TOKENS), *[unknown] * 3, end]
    assert vocabulary.specials == ANKH3.specials


def test_ids_of_a_models_tokens_may_have_gaps(tmp_path):
    path = tmp_path / "tokenizer.json"
    ids = {token: number for number, token in enumerate(ANKH3_TOKENS)} | {"Y": 255}
    TokenizerFile(WordLevel(ids, "<unk>")).save(str(path))
    tokenizer = ResidueTokenizer(complete_vocabulary(ANKH3, path))
    assert tokenizer.encode(b"MYZ").tolist() == [3, ids["M"], 255, 2, 1]
