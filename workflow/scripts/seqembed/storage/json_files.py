"""The program's own JSON files: kind, format version and checksum are keys of each."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from seqembed.storage.publish import publish_exclusively, published

KEY = "checksum"


def add_checksum(content: Mapping[str, Any]) -> dict[str, Any]:
    """The same with the checksum of all its keys, 32 hex characters."""
    return {**content, KEY: _checksum(content)}


def check_checksum(content: Mapping[str, Any]) -> None:
    """Raise ValueError if the checksum is wrong; files of older versions have none."""
    if KEY in content and content[KEY] != _checksum(content):
        raise ValueError("damaged since it was written")


def read_json(path: Path, kind: str, version: str) -> dict[str, Any]:
    """Read a file; ValueError, KeyError or TypeError if it is damaged or of another kind."""
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    if content["format_version"] != version or content["kind"] != kind:
        raise ValueError(f"format version {content['format_version']} is not known")
    check_checksum(content)
    return content


def write_json(
    path: Path,
    kind: str,
    version: str,
    content: Mapping[str, Any],
    *,
    exclusive: bool = False,
    ensure_ascii: bool = True,
) -> None:
    """Write a file durably, with its kind, format version and checksum.

    exclusive: never replace a file, but raise FileExistsError. ensure_ascii: write other
    characters as escapes.
    """
    whole = add_checksum({"format_version": version, "kind": kind, **content})
    text = json.dumps(whole, indent=2, sort_keys=True, ensure_ascii=ensure_ascii) + "\n"
    with (publish_exclusively if exclusive else published)(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _checksum(content: Mapping[str, Any]) -> str:
    rest = {key: value for key, value in content.items() if key != KEY}
    text = json.dumps(rest, sort_keys=True, separators=(",", ":"))
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
