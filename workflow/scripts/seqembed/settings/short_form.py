"""Read the short form of a configuration, `fasta=my.faa model=NAME`, which is one dataset alone.

Also explain mistakes with blanks, quotes and braces after --config.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterator, Mapping
from typing import Any

from seqembed.errors import ConfigError
from seqembed.storage.paths import as_name, explain_no_path

KEYS = ("fasta", "model", "name")
_FASTA_SUFFIX = re.compile(
    r"\.(fasta|fas|fa|faa|fna|ffn|frn|fsa|mfa|mpfa|pep|afa|a2m|a3m|seq|txt)$", re.IGNORECASE
)
_COMPRESSED_SUFFIX = re.compile(r"\.(gz|bgz|bz2|xz|zst)$", re.IGNORECASE)
# In `fasta='a.faa model=m'`, finds where the value of `fasta` should have ended.
_NEXT_KEY = re.compile(r"[\s,;]+(?:model|name|reuse)=")
_EXAMPLE = {"fasta": "my.faa", "model": "esm2_t33_650M_UR50D"}


def is_short(config: Mapping[str, Any]) -> bool:
    """Whether the configuration has a value for `fasta`, `model` or `name`."""
    return any(config.get(key) is not None for key in KEYS)


def as_datasets(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the configuration without the short form's keys, which become the only dataset.

    In the texts of `fasta` and `reuse`, commas separate paths.
    A configuration without these keys stays as it is. Raises ConfigError if only one of `fasta` and
    `model` is given, or if `name` is missing and no name can be made from `fasta`.
    """
    rest = {key: value for key, value in given.items() if key not in KEYS}
    if len(rest) == len(given):
        return rest
    for key in ("fasta", "model"):
        if key not in given:
            raise ConfigError(_explain_missing(key, given))
    fasta = _split_at_commas(given["fasta"])
    if not (name := given.get("name") or derive_name(fasta)):
        folder = as_name(os.path.basename(os.path.dirname(fasta[0])))
        raise ConfigError(
            "the dataset needs a name, as `fasta` is several files, a pattern, or a file without "
            "letters A to Z or digits in its name. The results go to results/NAME; write for "
            f"example `{_command({**given, 'name': folder or 'mine'})}`."
        )
    datasets = {name: {"fasta": fasta, "model": given["model"]}}
    return rest | {"datasets": datasets, "reuse": _split_at_commas(given["reuse"])}


def _split_at_commas(paths: str | list[str]) -> list[str]:
    """Return the paths of a text; a list, and a text that is the path of a file, are not split."""
    if isinstance(paths, list):
        return paths
    words = [] if os.path.lexists(paths) else paths.split(",")
    return [word.strip() for word in words if word.strip()] or [paths]


def derive_name(fasta: list[str]) -> str | None:
    """Return a name made from the name of the only FASTA file; None if no name can be made."""
    if len(fasta) != 1 or (not os.path.lexists(fasta[0]) and re.search(r"[*?[]", fasta[0])):
        return None
    stem = _COMPRESSED_SUFFIX.sub("", os.path.basename(fasta[0]))
    return as_name(_FASTA_SUFFIX.sub("", stem)) or None


def refuse_misread(given: Mapping[str, Any]) -> None:
    """Raise ConfigError for settings that YAML does not read as the user meant them.

    These are `{pooling:max}`, which is one key without a value in YAML; `fasta=-`, which is a list;
    and `datasets` with the keys of a dataset but without the dataset's name.
    """
    if given.get("fasta") == [""]:
        # YAML reads a lone `-` as a list.
        raise ConfigError(f"fasta: `-` {explain_no_path('-')}.")
    datasets = given.get("datasets")
    if isinstance(datasets, Mapping) and isinstance(datasets.get("fasta"), str):
        raise ConfigError(
            "datasets: the dataset's name is missing above `fasta`. Write on the command line "
            f"`{_command(datasets)}`; or in a file a name such as `mine:`, with the keys indented "
            "below the name."
        )
    for group, glued in _glued_keys(given):
        key, _, value = glued.partition(":")
        message = f"{group}: {glued!r} lacks a blank after its colon, so YAML reads one key."
        if group == "datasets":
            advice = f"Write a blank after each colon; or on the command line `{_command({})}`."
        else:
            braces = f"{group}={{{key}: {value}}}"
            advice = f"Write `{key}: {value}`; or after --config, in quotes: '{braces}'."
        raise ConfigError(f"{message} {advice}")


def _explain_missing(key: str, given: Mapping[str, Any]) -> str:
    others = " and ".join(f"`{other}`" for other in KEYS if other in given)
    message = f"`{key}` is missing beside {others}; write for example"
    advice = f"{message} `{_command(given)}`, all of it after one --config."
    fasta = given.get("fasta")
    if isinstance(fasta, str) and _NEXT_KEY.search(fasta):
        advice += f" Here {fasta!r} is one word: put blanks between settings, no quotes around all."
    return advice


def _command(given: Mapping[str, Any]) -> str:
    words = _EXAMPLE | {key: given[key] for key in KEYS if key in given}
    fasta = words["fasta"]
    words["fasta"] = ",".join(fasta) if isinstance(fasta, list) else _NEXT_KEY.split(fasta)[0]
    texts = {key: str(words[key]) for key in KEYS if key in words}
    short = {k: t if t.isprintable() and len(t) <= 200 else "..." for k, t in texts.items()}
    return " ".join(["--config", *(f"{key}={shlex.quote(text)}" for key, text in short.items())])


def _glued_keys(group: Any, top: str = "") -> Iterator[tuple[str, str]]:
    """For each key with a colon and no value, yield the topmost key above it, and then the key."""
    for key, value in group.items() if isinstance(group, Mapping) else ():
        if top and isinstance(key, str) and ":" in key.strip(":") and not value:
            yield top, key
        else:
            yield from _glued_keys(value, top or str(key))
