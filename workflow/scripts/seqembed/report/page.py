"""Put a report together as one HTML page that needs no other file, and asks for none."""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Mapping, Sequence
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

import vl_convert
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from seqembed import __version__
from seqembed.errors import count_of
from seqembed.report.colours import DARK, LIGHT
from seqembed.report.map import Layout
from seqembed.report.map_figure import Colouring
from seqembed.report.sample import Sample, cut

FOLDER = Path(__file__).parent
# Of what a bundle imports, only this one is there: `vega` and `vegaLite` are null.
_LIBRARY = "window.vegaEmbed = vegaEmbed;"
# A coordinate on the screen has fewer digits.
DIGITS = 4


def render_page(figures: Mapping[str, Any], points: str, content: Mapping[str, Any]) -> str:
    """Return the page.

    figures: what page.js draws. points: what pack_points returns, "" for none. content: the other
    variables of page.html. All texts are escaped; a policy in the page forbids scripts but its own,
    and requests of any kind.
    """
    environment = Environment(
        loader=FileSystemLoader(FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
    )
    environment.filters |= {"cut": cut, "of": count_of}
    style = environment.get_template("page.css").render(light=LIGHT, dark=DARK)
    scripts = [_close(text) for text in (_bundle(), (FOLDER / "page.js").read_text("utf-8"))]
    return environment.get_template("page.html").render(
        **content,
        version=__version__,
        figures=figures["charts"],
        figures_json=Markup(_escape(figures)),
        points=points,
        style=Markup(style),
        library=Markup(scripts[0]),
        script=Markup(scripts[1]),
        policy=_write_policy(scripts),
    )


def pack_points(
    sample: Sample,
    details: Mapping[str, Sequence[Any]],
    layouts: Mapping[str, Layout],
    colourings: Sequence[Colouring],
) -> str:
    """Return what the page knows of the points of its map, as JSON, gzip and base64."""
    content = {
        "ids": sample.ids,
        "descriptions": sample.descriptions,
        "details": {name: list(values) for name, values in details.items()},
        "layouts": [_round(layout) for layout in layouts.values()],
        "colours": [list(colouring.codes) for colouring in colourings],
    }
    text = json.dumps(content, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    packed = gzip.compress(text.encode("utf-8", "replace"), mtime=0)
    return base64.b64encode(packed).decode()


def _round(layout: Layout) -> list[list[float]]:
    return [[float(f"{value:.{DIGITS}g}") for value in axis] for axis in layout.places.T.tolist()]


@cache
def _bundle() -> str:
    """Return Vega-Embed as JavaScript, with Vega and Vega-Lite in it."""
    made: str = vl_convert.javascript_bundle(_LIBRARY)
    return made


def _escape(content: Any) -> str:
    """Return JSON that is safe within an element `script`, where `</script>` would end it."""
    return json.dumps(content, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")


def _close(script: str) -> str:
    """Return JavaScript in which no text ends the element around it."""
    return script.replace("</script", "<\\/script").replace("<!--", "<\\!--")


def _write_policy(scripts: Sequence[str]) -> str:
    """Return a Content Security Policy: these scripts run, no other one, and nothing is loaded."""
    hashes = (base64.b64encode(sha256(text.encode()).digest()).decode() for text in scripts)
    allowed = " ".join(f"'sha256-{text}'" for text in hashes)
    # Vega compiles its expressions by `Function`, and writes its own styles.
    return (
        f"default-src 'none'; script-src {allowed} 'unsafe-eval'; style-src 'unsafe-inline'; "
        "base-uri 'none'; form-action 'none'"
    )
