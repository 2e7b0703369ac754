"""Refuse mistakes on the command line that Snakemake accepts silently."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path

from seqembed.errors import ConfigError, IndexFormatError
from seqembed.settings.explain import GPU_NAMES
from seqembed.storage.paths import expand

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


def refuse_to_replace(patterns: Iterable[str], files: Iterable[str | Path], index: Path) -> None:
    """Raise ConfigError if the index was made of other FASTA files than `files`.

    One file in common is enough to go on, and so is an indexed file that one of `patterns`, the
    user's own words, would match. An index that cannot be read is made anew, and so passes.
    """
    # Not at the top: it imports pyarrow, which only a name that was used before needs.
    from seqembed.index.input_files import read_file_counts

    try:
        before = [path for path, _ in read_file_counts(index)]
    except IndexFormatError:
        return
    absolute = [os.path.abspath(expand(pattern)) for pattern in patterns]
    known = any(fnmatchcase(os.path.abspath(path), each) for path in before for each in absolute)
    if not before or known or {*map(os.path.realpath, before)} & {*map(os.path.realpath, files)}:
        return
    more = f" and {len(before) - 1} more" if len(before) > 1 else ""
    raise ConfigError(
        f"{index.parent} holds the results of {before[0]}{more}, which would be lost. Give these "
        f"files another name, by name=... after --config; or, if that file only moved, remove "
        f"{index} and run again."
    )
