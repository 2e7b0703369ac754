"""Refuse, before a run, mistakes that Snakemake does not notice; list errors after a run."""

from __future__ import annotations

import os
import re
import shlex
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path

from seqembed.errors import ConfigError, IndexFormatError
from seqembed.settings.schema import GPU_NAMES
from seqembed.storage.paths import expand

_SETTING = re.compile(r"(fasta|model|datasets)=")
# How each record begins in the log files that worker_logging.open_log_file writes.
_RECORD = re.compile(r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} (?P<level>[A-Z]+) ", re.M)
_TRACEBACK = "Traceback (most recent call last):"


def refuse_lost_words(arguments: Sequence[str], config: Sequence[str]) -> None:
    """Raise ConfigError if Snakemake would ignore a setting of the command line.

    arguments: all words of the command line. config: the words after the last --config.
    """
    settings = [word for word in arguments if _SETTING.match(word)]
    if settings and not config:
        message = f"{settings[0]} is taken for a file to make, as no --config stands before it"
        raise ConfigError(f"{message}; write --config {shlex.join(settings)}.")
    if sum(word in ("--config", "-C") or word.startswith("--config=") for word in arguments) > 1:
        message = "--config is given twice, and Snakemake reads only the last one"
        raise ConfigError(f"{message}; write all settings after one --config.")
    given = [word.partition("=") for word in config]
    keys = [key for key, _, _ in given]
    # Settings in braces may be given twice, because Snakemake merges them.
    if twice := [key for key, _, value in given if keys.count(key) > 1 and value[:1] != "{"]:
        message = f"{twice[0]} is given twice, and Snakemake uses only the last one"
        advice = f"write {twice[0]} once (several files as fasta=a.faa,b.faa, without braces)"
        raise ConfigError(f"{message}; {advice}.")


def refuse_other_gpu_limits(resources: Mapping[str, object], device: str) -> None:
    """Raise ConfigError for `--resources gpus=2`, which limits no job: the resource is `gpu`."""
    if device == "cpu" or "gpu" in resources:
        return
    for name in resources:
        if name.lower() in GPU_NAMES:
            count = getattr(resources[name], "raw", resources[name])
            message = f"--resources {name}={count} limits no job of this workflow"
            raise ConfigError(f"{message}; write --resources gpu={count}.")


def refuse_to_replace(patterns: Iterable[str], files: Iterable[str | Path], index: Path) -> None:
    """Raise ConfigError if the index was made of other FASTA files than `files`.

    No error if one of `files` is in the index, if one of `patterns` (the user's paths and globs)
    matches an indexed file, or if the index cannot be read: then the run makes a new index.
    """
    # Not at the top, because it imports pyarrow, which few runs need here.
    from seqembed.index.reader import read_file_counts

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
        f"{index.parent} holds the results of {before[0]}{more}, which would be lost. Write "
        f"name=... after --config, with another name; or, if {before[0]} only moved, remove "
        f"{index} and run again."
    )


def list_errors(logs: Iterable[Path], since: float) -> list[str]:
    """Return a line for each error that ended a log written after `since` (seconds, Unix time).

    The line names the log. If several logs ended with the same error, it names the first of them.
    """
    found: dict[str, list[Path]] = defaultdict(list)
    for path in logs:
        if path.exists() and path.stat().st_mtime >= since and (error := read_error(path)):
            found[error].append(path)
    return [
        f"{first}{f' and {len(more):,} more' if more else ''}: {error}"
        for error, (first, *more) in found.items()
    ]


def read_error(log: Path, levels: Collection[str] = ("ERROR", "WARNING")) -> str | None:
    """Return the first line of a log's last record, without its time and level.

    The last line of the record's traceback, if any, follows in brackets. Return None if the last
    record is of none of the `levels`.
    """
    text = log.read_text(errors="replace")
    records = list(_RECORD.finditer(text))
    if not records or records[-1]["level"] not in levels:
        return None
    record = [line for line in text[records[-1].end() :].splitlines() if line.strip()]
    return f"{record[0]} ({record[-1].strip()})" if _TRACEBACK in record else record[0]


def list_changes(datasets: Iterable[str], folder: Path) -> Iterator[str]:
    """Yield a line for each FASTA file of the datasets that changed since it was indexed.

    folder: the working folder, which has `results`. For an unreadable index, yield its error.
    """
    for dataset in datasets:
        index = Path(f"results/{dataset}/index.parquet")
        if not (folder / index).exists():
            continue
        # Not at the top, because it imports pyarrow, and every job of a run imports this module.
        from seqembed.index.reader import find_changes

        advice = f"`snakemake verify` compares its content; to embed it, add --forcerun {index}"
        try:
            for change in find_changes(folder / index, folder):
                yield f"Dataset {dataset}: {change}; {advice}"
        except IndexFormatError as error:
            yield str(error)
