"""A plan as text, in lines of at most 80 columns."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from seqembed.errors import count_of
from seqembed.look.memory import count_weights
from seqembed.look.plan import DatasetPlan
from seqembed.look.text import draw_bars, fold, label, lay_table
from seqembed.machine.words import format_bytes, format_seconds

# A table of more shards has a line for all others.
SHOWN_SHARDS = 8
POLICIES = {"window": "read in windows", "truncate": "cut to that length"}


def write_page(plan: DatasetPlan, blocks: str, free: int) -> Iterator[str]:
    """Yield the lines on one dataset; blocks: the characters of bars. free: bytes of its disk."""
    yield from fold(f"{plan.dataset.name}: {plan.dataset.model}, {_describe_recipe(plan)}")
    if not plan.dataset.indexed:
        sizes = plan.model.architecture
        size = f"about {count_weights(sizes, sizes.layers) / 1e6:,.0f} million parameters"
        yield from label("model", f"not here yet: a run downloads it first ({size})")
    yield from label("sequences", _describe_sequences(plan))
    yield from label("already there", _describe_there(plan))
    if lacking := sum(plan.missing):
        shards = count_of(plan.dataset.shards, "shard")
        yield from label("to compute", f"{count_of(lacking, 'sequence')} in {shards}")
    if len(plan.lengths):
        yield from label("lengths", f"{draw_bars(plan.lengths, blocks)} residues")
    yield from label("over length", _describe_long(plan))
    yield from label("residues", _describe_tokens(plan))
    yield from label("disk", _describe_disk(plan, free))
    if plan.finished:
        return
    yield from label("memory", _describe_memory(plan))
    yield from label("time", _describe_time(plan))
    if lacking and len(plan.shards) > 1:
        yield ""
        yield from _list_shards(plan)


def _describe_recipe(plan: DatasetPlan) -> str:
    recipe = plan.recipe
    where = "a GPU" if recipe.device == "cuda" else "the CPU"
    layer = "" if plan.dataset.request.layer == "last" else f"layer {recipe.layer}, "
    residues = " and rows of residues" if recipe.per_residue else ""
    return f"{layer}{recipe.pooling}{residues}, {recipe.precision} on {where}"


def _describe_sequences(plan: DatasetPlan) -> str:
    distinct = len(plan.tokens) - sum(int(shard.given_up.sum()) for shard in plan.shards)
    text = f"{plan.records.sequences:,}"
    if distinct != plan.records.sequences:
        text += f", {distinct:,} of them distinct"
    if plan.records.excluded:
        text += f"; {count_of(plan.records.excluded, 'more record')} will get no embedding"
    return text


def _describe_there(plan: DatasetPlan) -> str:
    if plan.finished:
        return "all: embeddings.h5 is finished"
    if not plan.weights_known:
        return "not known before the model is here"
    parts = {
        "in earlier results or checkpoints": sum(int(s.reused.sum()) for s in plan.shards),
        "in this dataset's checkpoints": sum(int(s.saved.sum()) for s in plan.shards),
    }
    found = [f"{number:,} {where}" for where, number in parts.items() if number]
    return ", ".join(found) or "none"


def _describe_tokens(plan: DatasetPlan) -> str:
    text = f"{int(plan.lengths.sum()):,}, as {plan.all_tokens:,} tokens"
    missing = sum(plan.missing_tokens)
    if missing in (0, plan.all_tokens):
        return text
    return f"{text}, of which {missing:,} are to be computed"


def _describe_long(plan: DatasetPlan) -> str:
    limit = plan.policy.max_length
    unit = plan.model.facts.unit
    if plan.policy.long_sequences == "full":
        return "none: sequences of any length are read whole"
    long = int(plan.policy.is_long(plan.tokens).sum())
    if not long:
        return f"none over {limit:,} {unit}"
    return f"{long:,} over {limit:,} {unit}, {POLICIES[plan.policy.long_sequences]}"


def _describe_disk(plan: DatasetPlan, free: int) -> str:
    disk = plan.disk
    if plan.finished:
        return f"{format_bytes(disk.now)} are taken, and no more is needed"
    text = f"{format_bytes(disk.peak)} at the peak, {format_bytes(disk.end)} at the end"
    return f"{text}; {format_bytes(free)} free"


def _describe_memory(plan: DatasetPlan) -> str:
    card, host = map(format_bytes, (plan.memory.card, plan.memory.host))
    text = f"{card} of the card, and {host} beside it" if plan.memory.card else host
    shards = "" if plan.at_once == 1 else f", {plan.at_once} at once"
    return f"about {text} for a worker{shards}"


def _describe_time(plan: DatasetPlan) -> str:
    if plan.seconds is None or plan.speed is None:
        return "not known: no run with this model and these settings is recorded yet"
    parts = [f"about {format_seconds(max(1, plan.seconds))} on {plan.speed.device_name}"]
    if plan.recipe.device == "cpu":
        parts[0] += f" with {count_of(plan.dataset.threads, 'thread')} a shard"
    if plan.at_once > 1:
        parts.append(f"{plan.at_once} shards at once")
    return ", ".join([*parts, plan.speed.source])


def _list_shards(plan: DatasetPlan) -> Iterator[str]:
    columns = plan.shards, plan.missing, plan.missing_tokens, plan.shares
    rows = [
        (f"{shard.index.rank}", f"{missing:,}", f"{tokens:,}", f"{100 * share:.1f}%")
        for shard, missing, tokens, share in zip(*columns, strict=True)
    ]
    head = ("shard", "sequences", "tokens", "of the time")
    yield from lay_table([head, *rows[:SHOWN_SHARDS]])
    if others := plan.shares[SHOWN_SHARDS:]:
        ends = dict.fromkeys(f"{100 * share:.1f}%" for share in (min(others), max(others)))
        spread = f"{' to '.join(ends)} of the time{' each' if len(others) > 1 else ''}"
        yield f"  and {count_of(len(others), 'more shard')}, {spread}"


def write_end(parts: Sequence[tuple[int, float | None]], results: Path, free: int) -> Iterator[str]:
    """Yield the lines on all datasets together: sums, and a warning if disk is short.

    parts: of each dataset, how many bytes more than now its run takes at the peak, and how many
    seconds, None if not known. results: the folder. free: bytes of its disk.
    """
    more = sum(size for size, _ in parts)
    if len(parts) > 1 and more:
        known = [seconds for _, seconds in parts if seconds is not None]
        text = f"all {len(parts)} datasets: {format_bytes(more)} more disk at the peak"
        if len(known) == len(parts) and any(known):
            text += f"; about {format_seconds(max(1, sum(known)))}"
        yield from fold(text)
        yield ""
    if more > free:
        yield from fold(
            f"WARNING: the disk of {results}/ will not do: {format_bytes(more - free)} are "
            f"missing. The run takes {format_bytes(more)} more at its peak, and "
            f"{format_bytes(free)} are free.",
            indent="  ",
        )
        yield ""
