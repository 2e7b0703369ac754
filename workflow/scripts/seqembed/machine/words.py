"""Sizes and times in words."""

from __future__ import annotations


def format_bytes(size: float) -> str:
    """Return a number of bytes in words, with three digits: "812 kB", "1.24 GB"."""
    units = ("bytes", "kB", "MB", "GB", "TB")
    power = 0
    while size >= 999.5 and power < len(units) - 1:
        size, power = size / 1000, power + 1
    digits = 0 if not power or size >= 99.95 else 1 if size >= 9.995 else 2
    return f"{size:,.{digits}f} {units[power]}"


def format_span(seconds: float) -> str:
    """Return a time that was measured in words, to the second, or to the minute after an hour."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s" if minutes else f"{rest} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours:,} h {minutes} min"


def format_seconds(seconds: float) -> str:
    """Return a duration in words, in no finer steps than a prediction deserves: "3 h 20 min"."""
    if seconds < 89.5:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 90:
        return f"{minutes} min"
    hours, minutes = divmod(round(minutes, -1), 60)
    if hours < 48:
        return f"{hours} h {minutes} min" if minutes else f"{hours} h"
    return f"{round((60 * hours + minutes) / 1440)} days"
