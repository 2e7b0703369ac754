"""Read and write the program's own JSON files, each with its kind, version and checksum."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from seqembed.storage.publish import published

KEY = "checksum"


def hash_json(content: Mapping[str, Any], size: int) -> str:
    """Return a hash of the content, in any order of the keys, as 2 * `size` hex characters."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.blake2b(text.encode(), digest_size=size).hexdigest()


def add_checksum(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return the content with a checksum of all other keys, 32 hex characters."""
    rest = {key: value for key, value in content.items() if key != KEY}
    return rest | {KEY: hash_json(rest, 16)}


def read_json(path: Path, kind: str, version: str) -> dict[str, Any]:
    """Read a file; raises ValueError, KeyError or TypeError if it is damaged or of another kind."""
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    if content["format_version"] != version or content["kind"] != kind:
        raise ValueError(f"format version {content['format_version']} is not known")
    # Files of older versions have no checksum.
    if KEY in content and content != add_checksum(content):
        raise ValueError("damaged since it was written")
    return content


def write_json(
    path: Path, kind: str, version: str, content: Mapping[str, Any], *, exclusive: bool = False
) -> None:
    """Write a file durably, with its kind, format version and checksum.

    exclusive: raise FileExistsError in place of replacing a file.
    """
    whole = add_checksum({"format_version": version, "kind": kind, **content})
    text = json.dumps(whole, indent=2, sort_keys=True) + "\n"
    with published(path, exclusive=exclusive) as temporary:
        temporary.write_text(text, encoding="utf-8")
