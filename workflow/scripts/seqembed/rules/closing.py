"""What a failed run says at its end: the error of each log, on one line."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from seqembed.errors import IndexFormatError

# As worker_logging.LINE begins.
_RECORD = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} (?P<level>[A-Z]+) ")
_TRACEBACK = "Traceback (most recent call last):"


def list_errors(logs: Iterable[Path], since: float) -> list[str]:
    """The last record of each log that was written since then, if it is an error or a warning."""
    written = [path for path in logs if path.exists() and path.stat().st_mtime >= since]
    return [line for path in written if (line := read_error(path))]


def read_error(log: Path) -> str | None:
    """The last record of a log on one line, if it is an error or a warning; else None.

    Of a record of several lines this is the first, and the last one of a traceback in it.
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


def list_changes(datasets: Iterable[str], folder: Path) -> list[str]:
    """What indices remember of their FASTA files and is otherwise now, a line a file.

    folder: the working folder, with `results`.
    """
    indices = {name: Path(f"results/{name}/index.parquet") for name in datasets}
    there = {name: path for name, path in indices.items() if (folder / path).exists()}
    return [line for name, path in there.items() for line in _list_changes(name, path, folder)]


def _list_changes(dataset: str, index: Path, folder: Path) -> list[str]:
    # Not at the top: it imports pyarrow, and every job of a run imports this module.
    from seqembed.index.input_files import find_changes

    try:
        changes = list(find_changes(folder / index, folder))
    except IndexFormatError as error:
        return [str(error)]
    advice = f"`snakemake verify` compares them; to embed it anew, add --forcerun {index}"
    return [f"Dataset {dataset}: {change}; {advice}" for change in changes]
