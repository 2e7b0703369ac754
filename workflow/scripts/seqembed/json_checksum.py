"""The checksum of a JSON file of ours, which stands in it as one of its keys."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

KEY = "checksum"


def add_checksum(content: Mapping[str, Any]) -> dict[str, Any]:
    """The same with the checksum of all its keys, 32 hex characters."""
    return {**content, KEY: _checksum(content)}


def check_checksum(content: Mapping[str, Any]) -> None:
    """Raise ValueError where the checksum is wrong; older files have none."""
    if KEY in content and content[KEY] != _checksum(content):
        raise ValueError("damaged since it was written")


def _checksum(content: Mapping[str, Any]) -> str:
    rest = {key: value for key, value in content.items() if key != KEY}
    text = json.dumps(rest, sort_keys=True, separators=(",", ":"))
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
