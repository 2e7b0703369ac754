"""Read and write the program's own JSON files, each with a kind, a version and a checksum."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from seqembed.storage.publish import published

KEY = "checksum"


def hash_json(content: Mapping[str, Any], size: int) -> str:
    """Return a hash of `size` bytes as 2 * `size` hex characters; the order of keys is ignored."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.blake2b(text.encode(), digest_size=size).hexdigest()


def add_checksum(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return the content with the key `checksum`: 32 hex characters, a hash of all other keys."""
    rest = {key: value for key, value in content.items() if key != KEY}
    return rest | {KEY: hash_json(rest, 16)}


def read_json(path: Path, kind: str, version: str) -> dict[str, Any]:
    """Return the content of a JSON file, with its kind, format version and checksum.

    Raises OSError if the file cannot be read; ValueError, KeyError or TypeError if the file is
    damaged, or not of this kind and format version.
    """
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    if content["format_version"] != version or content["kind"] != kind:
        found = f"{content['kind']} of format version {content['format_version']}"
        raise ValueError(f"{found} is not known; this program reads {kind} of version {version}")
    # Files of older versions have no checksum.
    if KEY in content and content != add_checksum(content):
        raise ValueError("the content does not match its checksum")
    return content


def write_json(
    path: Path, kind: str, version: str, content: Mapping[str, Any], *, exclusive: bool = False
) -> None:
    """Write `content` with its kind, format version and checksum as a JSON file, and sync the file.

    exclusive: raise FileExistsError if there is a file at `path`, instead of replacing that file.
    """
    whole = add_checksum({"format_version": version, "kind": kind, **content})
    text = json.dumps(whole, indent=2, sort_keys=True) + "\n"
    with published(path, exclusive=exclusive) as temporary:
        temporary.write_text(text, encoding="utf-8")
