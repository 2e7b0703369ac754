"""Whole messages of the program, kept in text files: tests/faults/messages/{name}.txt.

A case is its name behind `# ` and the message below it. To write the files anew, run the tests with
UPDATE_MESSAGES=1 in the environment, and read what changed before you commit it.
"""

from __future__ import annotations

import os
from pathlib import Path

MESSAGES = Path(__file__).parent / "messages"


def check_snapshot(name: str, messages: dict[str, str]) -> None:
    """Compare messages, by case, with those of messages/{name}.txt.

    A message must not depend on where the test runs: put a fixed word in place of such a path.
    """
    path = MESSAGES / f"{name}.txt"
    text = "\n".join(f"# {case}\n{message}\n" for case, message in sorted(messages.items()))
    if os.environ.get("UPDATE_MESSAGES") == "1":
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
    assert path.exists(), f"{path} is missing; run this test with UPDATE_MESSAGES=1"
    # Compared as lists of lines, so that pytest shows the lines that differ.
    assert text.splitlines() == path.read_text(encoding="utf-8").splitlines()
