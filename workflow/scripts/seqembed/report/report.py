"""Make the report of a result: an HTML page, and its figures as files."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import vl_convert

from seqembed.errors import count_of
from seqembed.flags import TRUNCATED
from seqembed.machine.screen import Report, no_report
from seqembed.machine.words import format_bytes, format_span
from seqembed.report import figures, run_words, words
from seqembed.report.colours import LIGHT, fill_in
from seqembed.report.contents import NAMED
from seqembed.report.findings import Findings, Sources, read_findings
from seqembed.report.history import ShardHistory
from seqembed.report.map import has_umap
from seqembed.report.map_figure import draw_map
from seqembed.report.methods import write_methods
from seqembed.report.page import pack_points, render_page
from seqembed.report.sample import SAMPLED
from seqembed.storage.publish import published, remove_temporary

SECTIONS = {
    "made": "Asked and made",
    "attention": "Attention",
    "time": "Time",
    "balance": "Balance",
    "lengths": "Lengths",
    "sanity": "Norms and neighbours",
    "map": "Map",
    "versions": "Versions",
    "methods": "Methods",
}
SHOWN_SHARDS = 64
STATIC_WIDTH = 800


def make_report(
    sources: Sources,
    page: Path,
    figure_paths: list[Path],
    asked: Mapping[str, Any],
    logger: logging.Logger,
    report: Report = no_report,
) -> None:
    """Write the report of a result to `page`, and its figures to files of their names.

    figure_paths: each has the name of a figure, and ends in .svg or .png. asked: the settings of
    `embedding`, as the user asked. report: told how far it is. Raises what read_findings raises.
    """
    for path in (page, *figure_paths):
        remove_temporary(path.parent, of=path.name)
    found = read_findings(sources, report)
    charts, maps = dict(_draw_charts(found)), _draw_maps(found)
    still = charts | {"map": maps[0]["figure"]} if maps else charts
    for path in figure_paths:
        _write_figure(path, still.get(path.stem), found)
    points = _pack(found) if maps else ""
    text = render_page(_list_drawn(found, charts, maps), points, _describe(found, asked))
    with published(page) as temporary:
        temporary.write_text(text, "utf-8", "replace")
    rows = count_of(found.contents.rows, "row")
    logger.info(f"{page}: the report of {rows}, {format_bytes(page.stat().st_size)}")


def _list_drawn(
    found: Findings, charts: Mapping[str, figures.Spec], maps: list[dict[str, Any]]
) -> dict[str, Any]:
    """Return what page.js draws, and what the controls of its map offer."""
    return {
        "name": found.name,
        "light": LIGHT,
        "charts": charts,
        "maps": maps,
        "layouts": list(found.layouts),
        "colourings": [
            {
                "name": colouring.name,
                "number": number,
                "classes": list(colouring.classes),
                "below": colouring.below,
            }
            for number, colouring in enumerate(found.colourings)
        ],
    }


def _draw_charts(found: Findings) -> Iterator[tuple[str, figures.Spec]]:
    """Yield the figures that there is something for, by name."""
    if found.histories:
        yield "phases", figures.draw_phases(found.histories)
        yield "speeds", figures.draw_speeds(found.histories)
    if len(found.norms):
        # A limit in other tokens than residues has no place on this axis.
        limit = int(found.attributes["max_length"]) if found.unit == "residues" else 0
        yield "lengths", figures.draw_lengths(found.contents.lengths, found.letters, limit)
        if np.isfinite(found.norms).all():
            yield "norms", figures.draw_norms(found.norms)
    if found.neighbours:
        yield "neighbours", figures.draw_neighbours(found.neighbours.cosines)


def _draw_maps(found: Findings) -> list[dict[str, Any]]:
    """Return a map for each way to lay out and to colour the points."""
    if len(found.sample.ids) < 2:
        return []
    return [
        {
            "layout": place,
            "colouring": number,
            "figure": draw_map(layout, place, colouring, number),
        }
        for place, layout in enumerate(found.layouts.values())
        for number, colouring in enumerate(found.colourings or [None])
    ]


def _write_figure(path: Path, drawn: figures.Spec | None, found: Findings) -> None:
    """Write a figure as SVG or PNG; None: a line that says that there is nothing to draw."""
    specification = drawn or figures.draw_nothing()
    if path.stem == "map" and drawn:
        specification = {**specification, "datasets": {"points": _list_points(found), "found": []}}
    specification = fill_in({**specification, "width": STATIC_WIDTH})
    with published(path) as temporary:
        if path.suffix == ".png":
            specification["background"] = LIGHT["paper"]
            temporary.write_bytes(vl_convert.vegalite_to_png(specification, scale=2))
        else:
            temporary.write_text(vl_convert.vegalite_to_svg(specification), "utf-8")


def _list_points(found: Findings) -> list[dict[str, Any]]:
    """Return the points of the first map."""
    places = next(iter(found.layouts.values())).places.tolist()
    colours: list[str | None] = [None] * len(places)
    if found.colourings:
        classes = list(found.colourings[0].classes)
        colours = [classes[code] for code in found.colourings[0].codes]
    return [
        {"i": number, "x0": x, "y0": y, "c0": colour}
        for number, ((x, y), colour) in enumerate(zip(places, colours, strict=True))
    ]


def _pack(found: Findings) -> str:
    return pack_points(found.sample, found.details, found.layouts, found.colourings)


def _describe(found: Findings, asked: Mapping[str, Any]) -> dict[str, Any]:
    """Return the variables of page.html."""
    contents, histories, attributes = found.contents, found.histories, found.attributes
    content: dict[str, Any] = {
        "name": found.name,
        "seal": found.seal,
        "attributes": attributes,
        "width": found.width,
        "created": str(attributes["created"]).replace("T", " ").replace("+00:00", " UTC"),
        "sections": SECTIONS.items(),
        "contents": contents,
        "lacking": contents.lacking,
        "account": words.give_account(contents),
        "counts": words.list_counts(contents),
        "settings": words.list_settings(asked, attributes),
        "named": NAMED,
        "notices": [
            *words.list_notices(contents, found.norms, found.limit),
            *run_words.notice_stops(histories),
        ],
        "truncated": contents.flagged[TRUNCATED],
        "limit": found.limit,
        "happened": run_words.list_happened(histories),
        "histories": histories,
        "has_map": len(found.sample.ids) > 1,
        "neighbours": found.neighbours,
        "facts": _list_facts(found),
        "methods": write_methods(attributes, contents, found.width, found.model),
    }
    if histories:
        content |= _describe_shards(found)
    if contents.rows:
        content |= {
            "letters": found.letters,
            "length_account": words.describe_lengths(
                contents.lengths, found.letters, _describe_policy(found)
            ),
            "norm_account": words.describe_norms(found.norms, found.norm_ends),
            "neighbour_account": words.describe_neighbours(found.neighbours, contents.distinct),
            "map_account": _describe_map(found),
        }
    return content


def _describe_shards(found: Findings) -> dict[str, Any]:
    histories = found.histories
    fewer = len(figures.choose_drawn(histories)) < len(histories)
    fastest = max((speed.rate for shard in histories for speed in shard.speeds), default=0)
    slow = run_words.find_slow(histories)
    return {
        "passed": run_words.describe_passed(histories),
        "places": run_words.list_places(histories),
        "time_account": run_words.describe_time(histories),
        "balance_account": run_words.describe_balance(histories, found.shards),
        "drawn": f", of the {figures.DRAWN_SHARDS} shards that took longest" if fewer else "",
        "fastest": f"{fastest:,.0f}",
        "shown_shards": SHOWN_SHARDS,
        "shards": [
            {
                "rank": shard.rank,
                "slow": shard is slow,
                "cells": _list_cells(shard),
                "places": "; ".join(shard.places),
            }
            for shard in figures.choose_slowest(histories, SHOWN_SHARDS)
        ],
    }


def _list_cells(shard: ShardHistory) -> list[str]:
    """Return what the table of shards says of one."""
    return [
        f"{shard.sequences:,}",
        f"{shard.reused:,}",
        f"{shard.tokens:,}" if shard.tokens else "",
        format_span(shard.worked),
        f"{shard.rate:,.0f}" if shard.rate else "",
        f"{100 * shard.filled / shard.room:.1f}%" if shard.room else "",
        f"{len(shard.restarts)}",
    ]


def _describe_policy(found: Findings) -> str:
    policy = found.attributes["long_sequences"]
    if policy == "full":
        return "The model read all of them whole."
    how = {"window": "read in windows", "truncate": "cut", "error": "refused"}[str(policy)]
    return f"Sequences over {found.limit} were {how}."


def _describe_map(found: Findings) -> str:
    count, rows = len(found.sample.ids), found.contents.rows
    drawn = f"{SAMPLED:,} of {rows:,} rows, drawn at random"
    which = f"all {rows:,} rows" if rows <= SAMPLED else drawn
    if left_out := min(rows, SAMPLED) - count:
        which += f", without {left_out:,} that hold values which are not finite or too large"
    text = (
        f"It shows {which}. Points that lie near each other often have similar rows, but not "
        "always: the axes of PCA hold only the share of the variance that they name"
    )
    if "UMAP" in found.layouts:
        return f"{text}; UMAP keeps neighbours together, and its other distances mean little."
    if has_umap():
        return f"{text}."
    return f"{text}. To have UMAP, too: pip install '.[umap]', and make the report again."


def _list_facts(found: Findings) -> list[tuple[str, str]]:
    """Return versions, recipe and fingerprints, by the names of the result's attributes."""
    facts = [("seal of the result", found.seal)]
    for name, value in found.attributes.items():
        if name == "package_versions":
            versions = json.loads(str(value))
            facts.append(("packages", ", ".join(f"{k} {v}" for k, v in versions.items())))
        else:
            facts.append((name, str(value)))
    if found.model:
        facts.append(("model's source", found.model.source))
    return facts
