"""The encoder of ESM-2 (fair-esm 2.0.0, esm/model/esm2.py; doi:10.1126/science.ade2574)."""

from __future__ import annotations

from torch import Tensor

from seqembed.models.encoders.attention import Attend, Packing
from seqembed.models.encoders.esm import EsmEncoder
from seqembed.models.encoders.rotary import default_inv_freq, rotate_before
from seqembed.models.families import Esm2Architecture


class Esm2(EsmEncoder):
    """The encoder of ESM-2, whose positions are rotary."""

    inv_freq: Tensor

    def __init__(self, architecture: Esm2Architecture, layer: int) -> None:
        super().__init__(architecture, layer)
        self.register_buffer("inv_freq", default_inv_freq(architecture.head_dim))

    def attention(self, packing: Packing) -> Attend:
        return rotate_before(self.attend_over(packing), self.inv_freq, packing, self.steps)
