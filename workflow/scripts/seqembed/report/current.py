"""Tell whether a dataset's report is of its result, and remove one that is not."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from seqembed.errors import SeqembedError
from seqembed.results.seal import read_seal

PAGE, FIGURES = "report.html", "report"
# The figures that a report has as files.
FIGURE_FILES = (
    *("phases.svg", "speeds.svg", "lengths.svg", "norms.svg", "neighbours.svg"),
    "map.png",
)
# The seal is among the first lines of the page.
_HEAD_BYTES = 4096
_MARK = '<meta name="seqembed-result" content="'


def list_report_files(folder: Path) -> list[Path]:
    """Return the paths of a report's page and figures in a dataset's folder of results."""
    return [folder / PAGE, *(folder / FIGURES / name for name in FIGURE_FILES)]


def has_current_report(folder: Path) -> bool:
    """Whether the report in a dataset's folder of results is there, and of the result there."""
    with suppress(SeqembedError, OSError):
        made_of = _read_report_seal(folder / PAGE)
        files = list_report_files(folder)
        return made_of == read_seal(folder / "embeddings.h5") and all(map(Path.is_file, files))
    return False


def remove_outdated_report(folder: Path) -> bool:
    """Remove a report that is of another result than the one in the same folder; say if so.

    Raises OSError if a file cannot be read or removed, ShardError if the result is not one.
    """
    page = folder / PAGE
    if not page.exists() or _read_report_seal(page) == read_seal(folder / "embeddings.h5"):
        return False
    for path in list_report_files(folder):
        path.unlink(missing_ok=True)
    # It stays if the user has put other files there.
    with suppress(OSError):
        (folder / FIGURES).rmdir()
    return True


def _read_report_seal(page: Path) -> str:
    """Return the seal of the result that a page is of, "" if it does not say."""
    with page.open("rb") as file:
        head = file.read(_HEAD_BYTES).decode("utf-8", "replace")
    return head.partition(_MARK)[2].partition('"')[0]
