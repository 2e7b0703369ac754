"""Make prot_t5/spiece.model: ProtT5's pieces and their ids, by sentencepiece's own trainer.

The trainer is not our code, so it shows that ours reads such files. Needs the package
sentencepiece, which seqembed and its tests do without; it was made with version 0.2.3.
"""

from __future__ import annotations

import io
from pathlib import Path

import sentencepiece

LETTERS = "ALGVSREDTIPKFQNYMHWCXBOUZ"

if __name__ == "__main__":
    content = io.BytesIO()
    # Pieces are ordered by how often the trainer reads them.
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=(" ".join(LETTERS[: count + 1]) for count in range(len(LETTERS))),
        model_writer=content,
        model_type="word",
        vocab_size=28,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        # Without the table of the usual rule, which makes the file 240 kB long.
        normalization_rule_name="identity",
    )
    (Path(__file__).parent / "prot_t5/spiece.model").write_bytes(content.getvalue())
