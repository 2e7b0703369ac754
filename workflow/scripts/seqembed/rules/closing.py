"""Find the lines that end a run: the error of each log, and FASTA files that have changed."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from seqembed.errors import IndexFormatError

# How worker_logging.LINE begins.
_RECORD = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} (?P<level>[A-Z]+) ")
_TRACEBACK = "Traceback (most recent call last):"


def list_errors(logs: Iterable[Path], since: float) -> list[str]:
    """Return the errors of the logs written after `since`, in seconds since the epoch."""
    written = [path for path in logs if path.exists() and path.stat().st_mtime >= since]
    return [line for path in written if (line := read_error(path))]


def read_error(log: Path) -> str | None:
    """Return the last record of a log as one line, if it is an error or a warning; else None.

    The line is the record's first; after a traceback, the last in brackets.
    """
    lines = log.read_text(errors="replace").splitlines()
    begins = [number for number, line in enumerate(lines) if _RECORD.match(line)]
    if not begins:
        return None
    record = [line for line in lines[begins[-1] :] if line.strip()]
    found = _RECORD.match(record[0])
    if not found or found["level"] not in ("ERROR", "WARNING"):
        return None
    return f"{record[0]} ({record[-1].strip()})" if _TRACEBACK in record else record[0]


def list_changes(datasets: Iterable[str], folder: Path) -> Iterator[str]:
    """Yield a line for each FASTA file that changed since it was indexed.

    folder: the working folder, which has `results`.
    """
    for dataset in datasets:
        index = Path(f"results/{dataset}/index.parquet")
        if not (folder / index).exists():
            continue
        # Not at the top: it imports pyarrow, and every job of a run imports this module.
        from seqembed.index.input_files import find_changes

        advice = f"`snakemake verify` compares them; to embed it anew, add --forcerun {index}"
        try:
            for change in find_changes(folder / index, folder):
                yield f"Dataset {dataset}: {change}; {advice}"
        except IndexFormatError as error:
            yield str(error)
