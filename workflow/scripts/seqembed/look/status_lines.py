"""Show the state of runs as lines of text, for a screen of 80 columns or more."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from typing import NamedTuple

from rich.text import Text

from seqembed.look.shard_status import WRONG, DatasetStatus, ShardStatus
from seqembed.machine.words import format_seconds

BAR = 10
# From this number on, shards in a row that wait, or are finished, share a line.
FOLDED = 3
QUIET = ("waiting", "finished")
STYLES: dict[str, str] = {"finished": "green", "done": "green", "merge failed": "bold red"}
STYLES |= dict.fromkeys(WRONG, "bold red")
HEAD = f"{'shard':>5}  {'':{BAR}} {'':4} {'sequences done':>17} {'tokens/s':>9} {'left':>8} "
HEAD += f"{'saved':>6}  on"


class Line(NamedTuple):
    """A line of the page; rank: the lines of lower ranks are shown first if there is little room.

    0: of a dataset. 1: of a shard after which a person has to look. 2: of any other shard.
    """

    text: Text
    rank: int


def fit(lines: Sequence[Line], height: int) -> list[Text]:
    """Return the lines that fit on a screen, those that matter most, in their order."""
    if len(lines) <= height:
        return [line.text for line in lines]
    first = sorted(range(len(lines)), key=lambda place: (lines[place].rank, place))
    kept = sorted(first[: max(0, height - 1)])
    more = Text(f"... and {len(lines) - len(kept)} more lines; a higher window shows them", "dim")
    return [*(lines[place].text for place in kept), more]


def list_lines(datasets: Sequence[DatasetStatus], encoding: str, width: int) -> list[Line]:
    """Return the lines that show datasets.

    encoding, width: of the screen; "utf-8" or another, and in columns.
    """
    marks = "█░" if encoding.lower().replace("-", "").startswith("utf") else "#."
    lines = [line for dataset in datasets for line in _dataset_lines(dataset, marks)]
    return [Line(cut_to(line.text, width), line.rank) for line in lines]


def cut_to(text: Text, width: int) -> Text:
    """Return the first line of a text, cut to a width."""
    text = text.split("\n")[0]
    if len(text) > width:
        text = text[: max(0, width - 3)].append("...")
    return text


def _dataset_lines(dataset: DatasetStatus, marks: str) -> Iterator[Line]:
    yield Line(_head(dataset), 0)
    groups = groupby(dataset.shards, lambda s: s.state if s.state in QUIET else s.rank)
    parts = [part for _, shards in groups for part in _fold([*shards])]
    if any(s.state == "computing" and s.tokens_per_second for s in dataset.shards):
        yield Line(Text(HEAD, style="dim"), 0)
    for part in parts:
        text = _shard_line(part[0], marks) if len(part) == 1 else _folded_line(part)
        yield Line(text, 1 if part[0].state in WRONG else 2)


def _head(dataset: DatasetStatus) -> Text:
    line = Text().append(f"{dataset.name}: ", "bold")
    line.append(dataset.state, STYLES.get(dataset.state, ""))
    line.append("".join(f", {text}" for text in _facts(dataset)))
    return line.append(f": {dataset.note}", STYLES[dataset.state]) if dataset.note else line


def _facts(dataset: DatasetStatus) -> Iterator[str]:
    if not dataset.sequences:
        return
    yield f"{dataset.sequences:,} sequences"
    if dataset.quarantined:
        yield f"{dataset.quarantined:,} quarantined"
    speeds = [shard.tokens_per_second for shard in dataset.shards if shard.state == "computing"]
    if any(speeds):
        yield f"{sum(filter(None, speeds)):,.0f} tokens/s"
    if left := _left(dataset.shards):
        yield f"{left} left"


def _left(shards: Iterable[ShardStatus]) -> str | None:
    """Return the time that is left, in words; None unless all shards are computed or finished."""
    left = [shard for shard in shards if shard.state != "finished"]
    times = [s.seconds_left for s in left if s.state == "computing" and s.seconds_left is not None]
    return format_seconds(max(times)) if times and len(times) == len(left) else None


def _fold(shards: list[ShardStatus]) -> list[list[ShardStatus]]:
    return [shards] if len(shards) >= FOLDED else [[shard] for shard in shards]


def _folded_line(shards: Sequence[ShardStatus]) -> Text:
    ranks = f"{shards[0].rank}-{shards[-1].rank}"
    count = sum(shard.sequences for shard in shards)
    line = Text(f"{ranks:>5}  ")
    return line.append(f"{shards[0].state}, {count:,} sequences", STYLES.get(shards[0].state, ""))


def _shard_line(shard: ShardStatus, marks: str) -> Text:
    filled = int(BAR * shard.share)
    bar = marks[0] * filled + marks[1] * (BAR - filled)
    count = f"{shard.done:,}/{shard.sequences:,}"
    line = Text(f"{shard.rank:>5}  {bar} {int(100 * shard.share):>3}% {count:>17}")
    if shard.tokens_per_second is None or shard.state != "computing":
        note = f": {shard.note}" if shard.note else ""
        return line.append(f"  {shard.state}{note}", STYLES.get(shard.state, ""))
    left = "" if shard.seconds_left is None else format_seconds(shard.seconds_left)
    ago = shard.checkpoint_seconds_ago
    saved = "" if ago is None else format_seconds(ago)
    device = shard.device_name.removeprefix("NVIDIA ") or shard.device
    speed, host = f"{shard.tokens_per_second:,.0f}", shard.host.partition(".")[0]
    return line.append(f" {speed:>9} {left:>8} {saved:>6}  {device} {host}".rstrip())
