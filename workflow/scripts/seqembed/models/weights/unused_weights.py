"""Refuse a checkpoint that holds weights which are neither used nor on a list of unused ones."""

from __future__ import annotations

import re
from collections.abc import Collection

from seqembed.errors import ModelError, count_of, show
from seqembed.models.weights.encoder_names import EncoderNames
from seqembed.models.weights.heads import is_head

# Inside ESM-2's encoder, and never used for a row. The contact head: fair-esm's esm2.py, and
# transformers' EsmModel. The pooler: EsmModel(add_pooling_layer=True). position_embeddings lie
# unused in the official folders, which have rotary positions (transformers pull request 39063);
# transformers 4.29 still saved position_ids. No version of EsmModel reads token types.
# fair-esm's own ESM2 has the language model's head inside.
ESM2_UNUSED = re.compile(
    r"contact_head\.regression\.(weight|bias)"
    r"|pooler\.dense\.(weight|bias)"
    r"|embeddings\.position_ids"
    r"|embeddings\.(position|token_type)_embeddings\.weight"
    r"|lm_head\.(weight|bias|(dense|layer_norm|decoder)\.(weight|bias))"
)
# The same for the authors' bert_layers.py, which has ALiBi in place of position embeddings.
DNABERT_UNUSED = re.compile(
    r"pooler\.dense\.(weight|bias)"
    r"|embeddings\.(position_ids|token_type_ids)"
    r"|embeddings\.position_embeddings\.weight"
)


def refuse_unknown(names: EncoderNames, used: Collection[str], unused: re.Pattern[str]) -> None:
    """Raises ModelError for weights that are not used and on no list.

    A head may lie beside the encoder, or in a model without a prefix at its top.

    used: plain names. unused: matches the whole of a plain name that may lie in the encoder.
    """
    inside = [name for name in names.encoder if name not in used and not unused.fullmatch(name)]
    if not names.prefix:
        inside = [name for name in inside if not is_head(name)]
    beside = [name for name in names.beside if not is_head(name.removeprefix("encoder."))]
    unknown = [names.prefix + name for name in inside] + beside
    if unknown:
        raise ModelError(
            f"holds {count_of(len(unknown), 'weight')} that the encoder does not use and that may "
            f"change its rows ({show(unknown)}); if not, save the encoder alone, with its own "
            "save_pretrained"
        )
