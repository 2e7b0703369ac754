"""The sentences of a report: counts, times and notices in words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from seqembed.errors import count_of
from seqembed.flags import FP32_RETRY, TRUNCATED, WINDOWED
from seqembed.machine.words import format_seconds
from seqembed.report.contents import Contents
from seqembed.report.history import PHASES, ShardHistory
from seqembed.report.neighbours import NEAR, Neighbours

# A shard that takes this much longer than the mean keeps the others waiting.
UNBALANCED = 1.2
# A shorter pause between jobs, in seconds, is not named.
SHORT_PAUSE = 60


@dataclass(frozen=True)
class Notice:
    """Something that needs attention; `warn`: something may have to be done."""

    kind: Literal["warn", "note"]
    title: str
    text: str


def give_account(contents: Contents) -> str:
    """Say what became of the records."""
    files, records = len(contents.files), count_of(contents.records, "record")
    beginning = "The FASTA file holds" if files == 1 else f"The {files:,} FASTA files hold"
    parts = [f"{beginning} {records}."]
    if contents.left_out:
        one = contents.left_out == 1
        what = "was left out for what it holds" if one else "were left out for what they hold"
        parts.append(f"{contents.left_out:,} {what}.")
    if contents.failed:
        parts.append(f"{contents.failed:,} could not be embedded by the model.")
    beginning = "All others" if contents.left_out or contents.failed else "All of them"
    if contents.rows:
        parts.append(f"{beginning} have a row in embeddings.h5: {contents.rows:,}.")
    else:
        parts.append("So no record has a row in embeddings.h5.")
    if repeats := contents.rows - contents.distinct:
        what = "is of a sequence" if repeats == 1 else "are of sequences"
        parts.append(
            f"{repeats:,} of these {what} that an earlier record has, too, so that "
            f"{contents.distinct:,} distinct sequences were embedded."
        )
    return " ".join(parts)


def list_counts(contents: Contents) -> list[tuple[str, int]]:
    """Return what records became, so that the last count is the sum of those before."""
    return [
        ("with a row", contents.rows),
        ("left out of the index", contents.left_out),
        ("not embedded by the model", contents.failed),
        ("records in all", contents.records),
    ]


def list_notices(
    contents: Contents, norms: NDArray[np.float32], histories: Sequence[ShardHistory], limit: str
) -> list[Notice]:
    """Return what needs attention, what matters most first; limit: the model's, in words."""
    notices = [*_notice_lacking(contents), *_notice_norms(norms)]
    windowed, truncated, retried = (
        contents.flagged[flag] for flag in (WINDOWED, TRUNCATED, FP32_RETRY)
    )
    if truncated:
        text = f"are over {limit}: their rows are of the beginning alone (flag 2)."
        notices.append(
            Notice("warn", f"{count_of(truncated, 'sequence')} truncated.", f"They {text}")
        )
    if retried:
        text = "Their first values were not finite, and were computed again in fp32 (flag 4)."
        notices.append(Notice("note", f"{count_of(retried, 'row')} computed again.", text))
    if windowed:
        text = f"They are over {limit}; their rows are put together from windows (flag 1)."
        notices.append(Notice("note", f"{count_of(windowed, 'sequence')} windowed.", text))
    if repeats := contents.rows - contents.distinct:
        text = "Their sequences are those of other records; they were not computed twice."
        notices.append(Notice("note", f"{count_of(repeats, 'duplicate')}.", text))
    return [*notices, *_notice_stops(histories)]


def _notice_lacking(contents: Contents) -> Iterator[Notice]:
    if lacking := contents.left_out + contents.failed:
        reason, count = contents.reasons[0]
        text = f"The most frequent reason ({count:,}): {reason[:200]}"
        yield Notice("warn", f"{count_of(lacking, 'record')} without an embedding.", text)


def _notice_norms(norms: NDArray[np.float32]) -> Iterator[Notice]:
    if bad := int((~np.isfinite(norms)).sum()):
        text = "They are not on the map. Verify the file: it may be damaged."
        yield Notice("warn", f"{count_of(bad, 'row')} with values that are not finite.", text)
    if zero := int((norms == 0).sum()):
        yield Notice("warn", f"{count_of(zero, 'row')} of zeros only.", "No model gives such rows.")


def _notice_stops(histories: Sequence[ShardHistory]) -> Iterator[Notice]:
    if restarts := sum(len(shard.restarts) for shard in histories):
        text = "A worker crashed, and a fresh one went on from the last checkpoint."
        yield Notice("note", f"{count_of(restarts, 'restart')}.", text)
    if stops := sum(len(shard.stops) for shard in histories):
        text = "Jobs ended before their shard was complete, and later ones went on from there."
        yield Notice("note", f"{count_of(stops, 'stop')}.", text)


def list_happened(histories: Sequence[ShardHistory]) -> list[tuple[str, int, str, str]]:
    """Return restarts and stops in order: the time, the rank, what it was, and why."""
    found = [
        *(
            (time, shard.rank, "restart", why)
            for shard in histories
            for time, why in shard.restarts
        ),
        *((s.time, shard.rank, s.status, s.reason) for shard in histories for s in shard.stops),
    ]
    return [(format_time(time), *rest) for time, *rest in sorted(found)]  # type: ignore[misc]


def format_time(seconds: float) -> str:
    """Return a time (Unix) as people write it, in UTC."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S")


def describe_time(histories: Sequence[ShardHistory]) -> str:
    """Say how long the shards took together, and on what."""
    begin, end = min(s.begin for s in histories), max(s.end for s in histories)
    totals = {name: sum(s.seconds[name] for s in histories) for name in PHASES}
    whole = sum(totals.values())
    shares = ", ".join(
        f"{100 * totals[name] / whole:.0f}% {name}" for name in PHASES if totals[name] > whole / 200
    )
    tokens = sum(shard.computed for shard in histories)
    spent = sum(speed.end - speed.begin for shard in histories for speed in shard.speeds)
    text = (
        f"From the first job's beginning, {format_time(begin)} UTC, to the last one's end, "
        f"{format_seconds(end - begin)} passed. The jobs took {format_seconds(whole)} together"
    )
    text += f": {shares}." if shares else "."
    idle = end - begin - max(sum(shard.seconds.values()) for shard in histories)
    if idle >= SHORT_PAUSE:
        text += f" For at least {format_seconds(idle)} of it, no job ran for any one shard."
    if tokens and spent:
        rate = f"{tokens / spent:,.0f} tokens/s a worker"
        text += f" After the workers' first batches, {tokens:,} tokens were computed, at {rate}."
    return text


def describe_balance(histories: Sequence[ShardHistory]) -> str:
    """Say how full batches were, and how even the shards' times."""
    parts = []
    if room := sum(shard.room for shard in histories):
        share = sum(shard.filled for shard in histories) / room
        parts.append(
            f"Batches were {100 * share:.1f}% full of sequences; the rest was computed in vain."
        )
    times = np.array([shard.worked for shard in histories])
    if len(times) == 1:
        return " ".join([*parts, "There is one shard, so nothing waited for another."])
    slowest = histories[int(times.argmax())]
    ratio = times.max() / max(times.mean(), 1e-9)
    parts.append(
        f"Of {len(times)} shards, shard {slowest.rank} took longest, "
        f"{format_seconds(slowest.worked)} with a device, {ratio:.2f} times the mean."
    )
    if ratio > UNBALANCED:
        parts.append(
            "The others ended well before it: look at its device, and at other programs there."
        )
    return " ".join(parts)


def describe_lengths(lengths: NDArray[np.int64], letters: str, policy: str) -> str:
    """Say how lengths are spread.

    letters: "residues" or "bases". policy: what was done with long sequences, as a sentence.
    """
    low, quarter, median, three, high = np.percentile(lengths, [0, 25, 50, 75, 100]).round()
    return (
        f"{int(lengths.sum()):,} {letters} in all. The shortest sequence has {low:,.0f}, and the "
        f"longest {high:,.0f}; half of all have {quarter:,.0f} to {three:,.0f}, and the median is "
        f"{median:,.0f}. {policy}"
    )


def describe_norms(norms: NDArray[np.float32]) -> str:
    """Say how norms are spread."""
    if not np.isfinite(norms).all():
        return "Some rows hold values that are not finite, so their norms are not drawn."
    low, median, high = np.percentile(norms, [0, 50, 100])
    return (
        f"The norms of the {len(norms):,} rows go from {low:.4g} to {high:.4g}, with a median of "
        f"{median:.4g}. One model gives sequences of one kind similar norms: a peak far from all "
        "others would be a sign of sequences that are not what they seem."
    )


def describe_neighbours(found: Neighbours | None, distinct: int) -> str:
    """Say how many rows are nearly equal; distinct: how many different sequences there are."""
    if found is None:
        return "All rows are equal, or of one sequence: there are no neighbours to compare."
    count = len(found.cosines)
    which = f"all {count:,}" if count == distinct else f"a sample of {count:,} of {distinct:,}"
    near = f"{found.near:,} {'has' if found.near == 1 else 'have'}"
    return (
        f"Among {which} different sequences, {near} a nearest neighbour at a cosine of {NEAR} or "
        "more: near-duplicates, such as fragments and close homologues. If nearly all had one, the "
        "model would not tell these sequences apart."
    )


def list_settings(
    asked: Mapping[str, Any], attributes: Mapping[str, str | int]
) -> list[tuple[str, str, str]]:
    """Return each setting of `embedding`, as it was asked for and as it was used."""
    used = {"per_residue": False, **attributes}
    if not used["max_length"]:
        used["max_length"] = "none"
    return [
        (name.replace("_", " "), _show(value), _show(used.get(name, "")))
        for name, value in asked.items()
    ]


def _show(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:,}" if isinstance(value, int) else str(value)
