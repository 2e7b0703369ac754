"""Mistakes on the command line that Snakemake accepts silently."""

from __future__ import annotations

import re
import shlex
from collections.abc import Collection, Mapping, Sequence

from seqembed.errors import ConfigError
from seqembed.settings.explain import GPU_NAMES

_SETTING = re.compile(r"(fasta|model|datasets)=")


def refuse_lost_words(arguments: Sequence[str], config: Sequence[str]) -> None:
    """Raise ConfigError for a setting that Snakemake would not read, or would replace.

    arguments: the whole command line. config: the words after the last --config.
    """
    settings = [word for word in arguments if _SETTING.match(word)]
    if settings and not config:
        message = f"{settings[0]} is taken for a file to make"
        raise ConfigError(f"{message}; write --config {shlex.join(settings)}.")
    if sum(word in ("--config", "-C") or word.startswith("--config=") for word in arguments) > 1:
        message = "--config is given twice, and Snakemake reads the last alone; write all of it"
        raise ConfigError(f"{message} after one --config.")
    given = [word.partition("=") for word in config]
    keys = [key for key, _, _ in given]
    # Snakemake merges groups of keys.
    if twice := [key for key, _, value in given if keys.count(key) > 1 and value[:1] != "{"]:
        message = f"{twice[0]} is given twice, and only the last would count; write it once"
        raise ConfigError(f"{message} (several files as fasta=a.faa,b.faa, without braces).")


def refuse_other_gpu_limits(resources: Mapping[str, object], device: str) -> None:
    """Raise ConfigError for `--resources gpus=2`, which limits nothing: the resource is `gpu`."""
    if device == "cpu" or "gpu" in resources:
        return
    for name in resources:
        if name.lower() in GPU_NAMES:
            count = getattr(resources[name], "raw", resources[name])
            message = f"--resources {name}={count} limits no job of this workflow"
            raise ConfigError(f"{message}; write --resources gpu={count}.")


def describe_left_out(datasets: Collection[str], name: str) -> str:
    """Say that the short form's dataset runs alone, without those of the configuration."""
    listed = ", ".join(map(str, list(datasets)[:10]))
    message = f"Only {name}, which fasta= names, is run"
    return f"{message}; the datasets of the configuration are not: {listed}."
