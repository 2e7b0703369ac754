"""What differs between the versions of libraries that the project allows."""

from __future__ import annotations

import inspect
import sys

import pytest
import torch
from huggingface_hub.errors import HfHubHTTPError
from packaging.version import Version
from torch.nn.attention.varlen import varlen_attn

from seqembed.versions import ask_for_one_split, find_http_error


def test_the_http_error_is_that_of_answers_and_of_connections():
    error = find_http_error()
    library = sys.modules[error.__module__.partition(".")[0]]
    assert issubclass(HfHubHTTPError, error) and issubclass(library.ConnectError, error)


@pytest.mark.parametrize(
    ("attention", "arguments"),
    [
        (lambda q, *, scale=None: q, {}),
        (lambda q, *, scale=None, num_splits=None: q, {"num_splits": 1}),
    ],
)
def test_one_split_is_asked_for_where_attention_splits(attention, arguments):
    assert ask_for_one_split(attention) == arguments


def test_pytorch_takes_a_number_of_splits_from_2_12_on():
    arguments = ask_for_one_split(varlen_attn)
    assert bool(arguments) == (Version(torch.__version__) >= Version("2.12"))
    inspect.signature(varlen_attn).bind(*["q", "k", "v"], *[0, 0], *[1, 1], scale=1.0, **arguments)
