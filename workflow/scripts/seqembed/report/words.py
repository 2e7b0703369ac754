"""The sentences of a report on what a result holds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from seqembed.errors import count_of
from seqembed.flags import FP32_RETRY, TRUNCATED, WINDOWED
from seqembed.report.contents import Contents
from seqembed.report.neighbours import NEAR, Neighbours


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
        what = "was left out: it holds" if contents.left_out == 1 else "were left out: they hold"
        parts.append(f"{contents.left_out:,} {what} letters that the model does not know.")
    if contents.failed:
        parts.append(f"{contents.failed:,} could not be embedded by the model.")
    beginning = "All others" if contents.lacking else "All of them"
    if contents.rows:
        parts.append(f"{beginning} have a row in embeddings.h5: {contents.rows:,}.")
    else:
        parts.append("So no record has a row in embeddings.h5.")
    if repeats := contents.rows - contents.distinct:
        verb = "repeats" if repeats == 1 else "repeat"
        parts.append(
            f"{repeats:,} of these {verb} the sequence of an earlier record, so "
            f"{contents.distinct:,} distinct sequences were embedded."
        )
    return " ".join(parts)


def list_counts(contents: Contents) -> list[tuple[str, int]]:
    """Return what records became, so that the last count is the sum of those before."""
    return [
        ("with a row", contents.rows),
        ("left out for unknown letters", contents.left_out),
        ("failed in the model", contents.failed),
        ("records in all", contents.records),
    ]


def list_notices(contents: Contents, norms: NDArray[np.float32], limit: str) -> list[Notice]:
    """Return what of a result needs attention; limit: the longest that is read whole, in words."""
    notices = [*_notice_lacking(contents), *_notice_norms(norms)]
    windowed, truncated, retried = (
        contents.flagged[flag] for flag in (WINDOWED, TRUNCATED, FP32_RETRY)
    )
    if truncated:
        text = f"They are over {limit}; their rows are of the first {limit} only (flag 2)."
        notices.append(Notice("warn", f"{count_of(truncated, 'sequence')} truncated.", text))
    if retried:
        text = "Their first values were not finite, and were computed again in fp32 (flag 4)."
        notices.append(Notice("note", f"{count_of(retried, 'row')} computed again.", text))
    if windowed:
        text = f"They are over {limit}; their rows are put together from windows (flag 1)."
        notices.append(Notice("note", f"{count_of(windowed, 'sequence')} windowed.", text))
    if repeats := contents.rows - contents.distinct:
        text = "Their sequences are those of other records; they were not computed twice."
        notices.append(Notice("note", f"{count_of(repeats, 'duplicate')}.", text))
    return notices


def _notice_lacking(contents: Contents) -> Iterator[Notice]:
    if contents.lacking:
        reason, count = contents.reasons[0]
        text = f"The most frequent reason, of {count_of(count, 'record')}: {reason[:200]}"
        yield Notice("warn", f"{count_of(contents.lacking, 'record')} without an embedding.", text)


def _notice_norms(norms: NDArray[np.float32]) -> Iterator[Notice]:
    if bad := int((~np.isfinite(norms)).sum()):
        text = "They are not on the map. Verify the file: it may be damaged."
        yield Notice("warn", f"{count_of(bad, 'row')} with values that are not finite.", text)
    if zero := int((norms == 0).sum()):
        yield Notice("warn", f"{count_of(zero, 'row')} of zeros only.", "No model gives such rows.")


def describe_lengths(lengths: NDArray[np.int64], letters: str, policy: str) -> str:
    """Say how lengths are spread.

    letters: "residues" or "bases". policy: what was done with long sequences, as a sentence.
    """
    low, quarter, median, three, high = np.percentile(lengths, [0, 25, 50, 75, 100]).round()
    middle = f"{quarter:,.0f} to {three:,.0f}" if quarter < three else f"{median:,.0f}"
    return (
        f"{int(lengths.sum()):,} {letters} in all. The shortest sequence has {low:,.0f}, and the "
        f"longest {high:,.0f}; the middle half have {middle}, and the median is {median:,.0f}. "
        f"{policy}"
    )


def describe_norms(norms: NDArray[np.float32], ends: tuple[str, str]) -> str:
    """Say how norms are spread; ends: the ids of the least and the largest."""
    if not np.isfinite(norms).all():
        return "Some rows hold values that are not finite, so their norms are not drawn."
    if len(norms) == 1:
        return f"The norm of the only row is {norms[0]:.4g}."
    low, median, high = np.percentile(norms, [0, 50, 100])
    return (
        f"The norms of the {len(norms):,} rows go from {low:.4g}, of {ends[0]}, to {high:.4g}, of "
        f"{ends[1]}, with a median of {median:.4g}. One layer of a model gives sequences of one "
        "kind similar norms: look at rows far from the rest."
    )


def describe_neighbours(found: Neighbours | None, distinct: int) -> str:
    """Say how many rows are nearly equal; distinct: how many different sequences there are."""
    if found is None:
        return "There are no two rows of different sequences that differ: nothing was compared."
    count = len(found.cosines)
    which = f"all {count:,}" if count == distinct else f"a sample of {count:,} of {distinct:,}"
    near = f"{found.near:,} {'has' if found.near == 1 else 'have'}"
    return (
        f"Among {which} different sequences, {near} a nearest neighbour at a cosine of {NEAR} or "
        "more: near-duplicates, such as fragments, overlapping parts and close homologues, or "
        "sequences that agree in all that the model read. If nearly all had one, the model would "
        "not tell these sequences apart. The mean row was subtracted first; cosines of the rows "
        "themselves are higher."
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
