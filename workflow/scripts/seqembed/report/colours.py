"""The colours of a page and its figures, for light and for dark screens, by CSS variable.

People who are colour-blind can tell c1 to c7 apart: these are those of Okabe and Ito, "Color
Universal Design" (2008), lighter or darker where the background needs it. s1 to s7 grow from few to
many: they are from Matplotlib's viridis, without its ends.
"""

from __future__ import annotations

from typing import Any

LIGHT = {
    "paper": "#ffffff",
    "panel": "#f5f6f8",
    "ink": "#1c2330",
    "soft": "#566072",
    "line": "#8a93a3",
    "grid": "#e3e6eb",
    "grey": "#a9b0bb",
    "faint": "#d3d8df",
    "c1": "#0072b2",
    "c2": "#d98b00",
    "c3": "#00815c",
    "c4": "#c34700",
    "c5": "#56b4e9",
    "c6": "#b3598b",
    "c7": "#7a6f00",
    "s1": "#482878",
    "s2": "#3b528b",
    "s3": "#2c728e",
    "s4": "#21918c",
    "s5": "#28ae80",
    "s6": "#5ec962",
    "s7": "#add126",
}
DARK = LIGHT | {
    "paper": "#12161d",
    "panel": "#1b212b",
    "ink": "#e8ebf0",
    "soft": "#a6afbd",
    "line": "#727c8c",
    "grid": "#2b333f",
    "grey": "#6b7482",
    "faint": "#3a4452",
    "c1": "#4aa8e0",
    "c2": "#e69f00",
    "c3": "#2fc79a",
    "c4": "#ff7f45",
    "c5": "#9bd5f5",
    "c6": "#dd8fbb",
    "c7": "#f0e442",
    "s1": "#7a5bb5",
    "s2": "#6677c0",
    "s3": "#4c93b5",
    "s4": "#35aba5",
    "s5": "#4fc596",
    "s6": "#86da86",
    "s7": "#d8e84e",
}


# The values of these keys are data, or texts of strangers: they stay as they are.
_DATA = {"data", "datasets", "domain", "title", "name"}


def fill_in(part: Any) -> Any:
    """Return a figure's specification with the light colours in place of variables."""
    if isinstance(part, dict):
        return {key: found if key in _DATA else fill_in(found) for key, found in part.items()}
    if isinstance(part, list):
        return [fill_in(found) for found in part]
    return _VALUES.get(part, part) if isinstance(part, str) else part


_VALUES = {f"var(--{name})": value for name, value in LIGHT.items()}
