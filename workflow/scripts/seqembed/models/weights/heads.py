"""Tell a model's head from its encoder, by name."""

from __future__ import annotations

import re

# A head takes the encoder's rows and does not change them: lm_head, classifier, qa_outputs and
# score in transformers, cls in DNABERT's bert_layers.py, encoder.classification_heads in fairseq,
# and whatever users call the heads of their own models. What has another name could come before
# the encoder.
HEAD = re.compile(
    r"head|classif|regress|scor|predict|logit|output|decoder|pooler|proj|dropout|loss|criterion"
    r"|^(cls|out|mlp|fc\d*|linear\d*|dense\d*|final\d*)$",
    re.IGNORECASE,
)
NO_HEAD = re.compile(r"embed|encoder|input|layers?$|attention|attn", re.IGNORECASE)


def is_head(name: str) -> bool:
    """Whether a weight's name begins with the name of a head; prefixes must be removed before."""
    module = name.partition(".")[0]
    return HEAD.search(module) is not None and NO_HEAD.search(module) is None
