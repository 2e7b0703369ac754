"""Mistakes on the command line that Snakemake accepts silently."""

from __future__ import annotations

import shlex

import pytest

from seqembed.errors import ConfigError
from seqembed.rules.invocation import refuse_lost_words, refuse_other_gpu_limits


def _refusal(command: str) -> str:
    words = shlex.split(command)
    given = words[len(words) - words[::-1].index("--config") :] if "--config" in words else []
    with pytest.raises(ConfigError) as caught:
        refuse_lost_words(words, given)
    return str(caught.value)


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (
            "snakemake --config fasta=a.faa model=m --config shards=4",
            "--config is given twice, and Snakemake reads the last alone; write all of it after "
            "one --config.",
        ),
        (
            "snakemake --config fasta=a.faa fasta=b.faa model=m",
            "fasta is given twice, as 'a.faa' and 'b.faa', and the first would be lost; write "
            "fasta=a.faa,b.faa, commas and no braces.",
        ),
        (
            "snakemake --config embedding=pooling:max embedding=precision:fp32",
            "embedding is given twice, as 'pooling:max' and 'precision:fp32', and the first would "
            "be lost; put it in quotes, with a blank after each colon: 'embedding={pooling: max, "
            "precision: fp32}'.",
        ),
        (
            "snakemake --config shards=2 shards=4",
            "shards is given twice, as '2' and '4', and the first would be lost; write it once.",
        ),
        (
            "snakemake --config 'embedding={pooling: max, pooling: cls}'",
            "embedding={pooling: max, pooling: cls}, line 1: the key 'pooling' already stands in "
            "line 1; keep one.",
        ),
        (
            "snakemake --config 'datasets={mine: {fasta: a.faa, model: m}'",
            "After --config, datasets={mine: {fasta: a.faa, model: m} is not complete; is a brace, "
            "a comma or a quote missing?",
        ),
        (
            "snakemake --cores 4 fasta=a.faa model=m",
            "fasta=a.faa is taken for a file to make; write --config fasta=a.faa model=m.",
        ),
    ],
)
def test_a_setting_that_would_be_lost_is_refused(command, message):
    assert _refusal(command) == message


@pytest.mark.parametrize(
    "config", [["fasta=a.faa", "model=m"], ["embedding={a: b}", "embedding={c: d}"], []]
)
def test_what_is_read_as_it_is_written_passes(config):
    refuse_lost_words(["snakemake", "--config", *config, "--cores", "4"], config)


@pytest.mark.parametrize("name", ["gpus", "GPU", "nvidia_gpu"])
def test_another_name_for_the_gpus_is_refused(name):
    with pytest.raises(ConfigError) as caught:
        refuse_other_gpu_limits({"_cores": 4, name: 2}, "auto")
    expected = f"--resources {name}=2 limits no job of this workflow; write --resources gpu=2."
    assert str(caught.value) == expected
    refuse_other_gpu_limits({name: 2}, "cpu")
    refuse_other_gpu_limits({name: 2, "gpu": 2}, "auto")


def test_other_resources_pass():
    refuse_other_gpu_limits({"_cores": 4, "mem_mb": 100, "gpu": 2}, "auto")
