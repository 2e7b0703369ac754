"""Show how far every shard of every dataset is: once, or live with --follow."""

from __future__ import annotations

import argparse
import json
import signal
import sys
import time
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.live import Live
from rich.text import Text

from seqembed.look.liveness import Liveness
from seqembed.look.shard_status import DatasetStatus, StallFinder, read_status
from seqembed.look.status_lines import fit, list_lines

# --follow looks again after FOLLOW_SECONDS, and prints after PRINT_SECONDS if it is on no terminal.
# Heartbeats come every 15 seconds, and a shared file system may show them a minute later: a worker
# that finished no batch for STALLED_SECONDS is stalled.
FOLLOW_SECONDS, STALLED_SECONDS, PRINT_SECONDS = 2.0, 120.0, 60.0
# Two heartbeats of a worker lie further apart than a shorter --wait.
LEAST_WAIT = 20.0
EXIT_WRONG = 3


def main() -> int:
    codes = "The exit code is 3 if a shard has failed, or if its worker is dead or stalled."
    parser = argparse.ArgumentParser(description=__doc__, epilog=codes, allow_abbrev=False)
    folder = "the folder of the results (default: results)"
    parser.add_argument("results", type=Path, nargs="?", default=Path("results"), help=folder)
    live = "go on until all datasets are done, or until Ctrl-C"
    parser.add_argument("--follow", action="store_true", help=live)
    parser.add_argument("--json", action="store_true", help="print one JSON object, for scripts")
    twice = "look twice, this long apart (120 is safe): a worker that finished no batch is stalled"
    parser.add_argument("--wait", type=float, default=0.0, metavar="SECONDS", help=twice)
    arguments = parser.parse_args()
    # `status.py | head` is no error.
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    if not arguments.results.is_dir():
        parser.error(f"{arguments.results}: there is no such folder; name the one with the results")
    if arguments.wait and arguments.wait < LEAST_WAIT:
        parser.error(f"--wait {arguments.wait:g}: give {LEAST_WAIT:g} seconds or more")
    if arguments.follow and arguments.json:
        parser.error("--follow is for people, --json for scripts: give one of them")
    if arguments.follow:
        datasets = follow(arguments.results)
    else:
        datasets = look(arguments.results, arguments.wait)
        show(datasets, as_json=arguments.json)
    return EXIT_WRONG if any(dataset.wrong for dataset in datasets) else 0


def look(results: Path, wait: float) -> list[DatasetStatus]:
    """Return the state of all datasets; of two looks, `wait` seconds apart, if that is not 0."""
    finder, liveness = StallFinder(wait or STALLED_SECONDS), Liveness()
    datasets = finder.mark(read_status(results, liveness))
    if wait:
        time.sleep(wait)
        datasets = finder.mark(read_status(results, liveness))
    return datasets


def show(datasets: list[DatasetStatus], *, as_json: bool) -> None:
    if as_json:
        whole = {"format_version": "1", "datasets": [asdict(dataset) for dataset in datasets]}
        print(json.dumps(whole, indent=2))
    else:
        screen = Console(highlight=False, soft_wrap=True)
        screen.print(as_text(datasets, screen, high=sys.maxsize), end="")


def follow(results: Path) -> list[DatasetStatus]:
    """Show the state of all datasets again and again, until all are done or Ctrl-C; return it."""
    screen, finder, liveness = Console(highlight=False), StallFinder(STALLED_SECONDS), Liveness()
    # Without a terminal, there is nothing to draw over.
    seconds = FOLLOW_SECONDS if screen.is_terminal else PRINT_SECONDS
    datasets: list[DatasetStatus] = []
    with suppress(KeyboardInterrupt), Live(console=screen, auto_refresh=False) as live:
        while True:
            datasets = finder.mark(read_status(results, liveness))
            if screen.is_terminal:
                live.update(as_text(datasets, screen, screen.height - 1), refresh=True)
            else:
                show(datasets, as_json=False)
            if datasets and all(dataset.state == "done" for dataset in datasets):
                break
            time.sleep(seconds)
    return datasets


def as_text(datasets: list[DatasetStatus], screen: Console, high: int) -> Text:
    """Return the page as one text of at most `high` lines."""
    # Into a file, lines are as long as they have to be.
    width = screen.width if screen.is_terminal else sys.maxsize
    lines = fit(list_lines(datasets, screen.encoding, width), high) or [Text("no datasets yet")]
    return Text("\n").join([*lines, Text()])


if __name__ == "__main__":
    sys.exit(main())
