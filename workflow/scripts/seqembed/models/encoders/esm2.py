"""The encoder of ESM-2 (fair-esm 2.0.0, esm/model/esm2.py; doi:10.1126/science.ade2574)."""

from __future__ import annotations

from seqembed.models.encoders.esm import EsmEncoder


class Esm2(EsmEncoder):
    """The encoder of ESM-2, whose positions are rotary."""
