"""Mistakes on the command line that Snakemake accepts silently."""

from __future__ import annotations

import shlex

import pytest

from seqembed.errors import ConfigError
from seqembed.run_messages import refuse_lost_words, refuse_other_gpu_limits


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("--config fasta=a.faa model=m --config shards=4", "all settings after one --config"),
        ("--config fasta=a.faa fasta=b.faa", "fasta is given twice.* fasta=a.faa,b.faa"),
        ("--config shards=2 shards=4", "shards is given twice"),
        ("--config embedding=pooling:max embedding=precision:fp32", "embedding is given twice"),
        ("--cores 4 fasta=a.faa model=m", "write --config fasta=a.faa model=m"),
    ],
)
def test_a_setting_that_would_be_lost_is_refused(command, message):
    words = shlex.split(command)
    given = words[len(words) - words[::-1].index("--config") :] if "--config" in words else []
    with pytest.raises(ConfigError, match=message):
        refuse_lost_words(words, given)


@pytest.mark.parametrize(
    "config", [["fasta=a.faa", "model=m"], ["embedding={a: b}", "embedding={c: d}"], []]
)
def test_what_is_read_as_it_is_written_passes(config):
    refuse_lost_words(["snakemake", "--config", *config, "--cores", "4"], config)


@pytest.mark.parametrize("name", ["gpus", "GPU", "nvidia_gpu"])
def test_another_name_for_the_gpus_is_refused(name):
    with pytest.raises(ConfigError, match="write --resources gpu=2"):
        refuse_other_gpu_limits({"_cores": 4, name: 2}, "auto")
    refuse_other_gpu_limits({name: 2}, "cpu")
    refuse_other_gpu_limits({name: 2, "gpu": 2}, "auto")


def test_other_resources_pass():
    refuse_other_gpu_limits({"_cores": 4, "mem_mb": 100, "gpu": 2}, "auto")
