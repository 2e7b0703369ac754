"""What differs between the versions of libraries that the project allows."""

from __future__ import annotations

import sys
from inspect import signature

import pytest
import torch
from huggingface_hub.errors import HfHubHTTPError
from torch.nn.attention.varlen import varlen_attn
from torch.torch_version import TorchVersion

from seqembed.versions import ask_for_one_split, find_http_error


def test_the_http_error_is_that_of_answers_and_of_connections():
    error = find_http_error()
    library = sys.modules[error.__module__.partition(".")[0]]
    assert issubclass(HfHubHTTPError, error) and issubclass(library.ConnectError, error)


# PyTorch 2.12.1 has the argument, and refuses it on a GPU.
@pytest.mark.parametrize(
    ("version", "expected"),
    [("2.12.1+cu130", {}), ("2.13.0+cu130", {"num_splits": 1}), ("2.13.0a0+nv", {"num_splits": 1})],
)
def test_one_split_is_asked_for_where_attention_splits(version, expected, monkeypatch):
    assert ask_for_one_split({"scale"}) == {}
    monkeypatch.setattr(torch, "__version__", TorchVersion(version))
    assert ask_for_one_split({"scale", "num_splits"}) == expected


def test_this_pytorch_takes_what_asks_for_one_split():
    takes = signature(varlen_attn)
    one_split = ask_for_one_split(takes.parameters)
    takes.bind(*["q", "k", "v"], *[0, 0], *[1, 1], scale=1.0, **one_split)
