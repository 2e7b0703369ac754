"""The short form of a configuration: `fasta=my.faa model=NAME`, one dataset alone.

It needs no quotes and braces after `--config`; what goes wrong with these is explained here, too.
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
_NEXT_KEY = re.compile(r"[\s,;]+(?:model|name)=")
_MOST_LETTERS = 200
_EXAMPLE = {"fasta": "my.faa", "model": "esm2_t33_650M_UR50D"}


def is_short(config: Mapping[str, Any]) -> bool:
    """Whether a configuration has a key of the short form."""
    return any(config.get(key) is not None for key in KEYS)


def as_datasets(given: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration with its one dataset under `datasets`, in place of any others.

    Without a key of the short form it stays as it is. Raises ConfigError where `fasta`, `model`,
    or the name of several files is missing.
    """
    rest = {key: value for key, value in given.items() if key not in KEYS}
    if len(rest) == len(given):
        return rest
    for key in ("fasta", "model"):
        if key not in given:
            raise ConfigError(_explain_missing(key, given))
    fasta = _split(given["fasta"])
    name = given.get("name") or derive_name(fasta)
    if name is None:
        raise ConfigError(_explain_nameless(given))
    return rest | {"datasets": {name: {"fasta": fasta, "model": given["model"]}}}


def derive_name(fasta: list[str]) -> str | None:
    """The name that a dataset of one file gets; None of several, and where nothing is left."""
    if len(fasta) != 1 or _is_pattern(fasta[0]):
        return None
    stem = _COMPRESSED_SUFFIX.sub("", os.path.basename(fasta[0]))
    return as_name(_FASTA_SUFFIX.sub("", stem))[:_MOST_LETTERS] or None


def refuse_misread(given: Any) -> None:
    """Raise ConfigError for what YAML reads otherwise than it was meant.

    That is `{pooling:max}`, which YAML reads as one key without a value (as bash leaves of braces
    without quotes); `fasta=-`, standard input; and a dataset without its name.
    """
    if not isinstance(given, Mapping):
        return
    if given.get("fasta") == [""]:
        # YAML reads a lone `-` as a list.
        raise ConfigError(f"fasta: `-` {explain_no_path('-')}.")
    datasets = given.get("datasets")
    if isinstance(datasets, Mapping) and isinstance(datasets.get("fasta"), str):
        raise ConfigError(_explain_no_name(datasets))
    for path in _glued_keys(given):
        raise ConfigError(_explain_glued(path))


def _split(fasta: str | list[str]) -> list[str]:
    """The paths of a text that separates them by commas, unless it is a file's own name."""
    if not isinstance(fasta, str):
        return fasta
    if os.path.lexists(fasta):
        return [fasta]
    return [part.strip() for part in fasta.split(",") if part.strip()] or [fasta]


def _is_pattern(path: str) -> bool:
    return not os.path.lexists(path) and any(letter in path for letter in "*?[")


def _explain_missing(key: str, given: Mapping[str, Any]) -> str:
    given_keys = " and ".join(f"`{other}`" for other in KEYS if other in given)
    verb = "are" if " and " in given_keys else "is"
    message = f"{given_keys} {verb} given without `{key}`; write for example"
    advice = f"{message} `{_command(given)}`, all of it after one --config."
    fasta = given.get("fasta")
    if isinstance(fasta, str) and _NEXT_KEY.search(fasta):
        return (
            f"{advice} Here {fasta!r} is one word: put a blank between, and no quotes around both."
        )
    return advice


def _explain_nameless(given: Mapping[str, Any]) -> str:
    folder = os.path.basename(os.path.dirname(_split(given["fasta"])[0]))
    suggested = dict(given) | {"name": as_name(folder)[:_MOST_LETTERS] or "mine"}
    return (
        "`fasta` gives the dataset no name: it is several files, a pattern, or a file without "
        "plain letters in its name. The results go to results/NAME; write for example "
        f"`{_command(suggested)}`."
    )


def _command(given: Mapping[str, Any]) -> str:
    """What to write after snakemake, with what is given and an example of what is not."""
    words = _EXAMPLE | {key: given[key] for key in KEYS if key in given}
    if isinstance(words["fasta"], list):
        words["fasta"] = ",".join(words["fasta"])
    elif isinstance(words["fasta"], str):
        words["fasta"] = _NEXT_KEY.split(words["fasta"])[0]
    return "--config " + " ".join(f"{key}={_quoted(words[key])}" for key in KEYS if key in words)


def _quoted(value: object) -> str:
    text = str(value)
    return shlex.quote(text) if text.isprintable() and len(text) <= 200 else "..."


def _glued_keys(group: Any, above: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The path of each key that holds a colon and has no value."""
    if not isinstance(group, Mapping):
        return
    for key, value in group.items():
        path = (*above, str(key))
        if above and isinstance(key, str) and ":" in key.strip(":") and not value:
            yield path
        else:
            yield from _glued_keys(value, path)


def _explain_glued(path: tuple[str, ...]) -> str:
    key, _, value = path[-1].partition(":")
    message = (
        f"{path[0]}: {path[-1]!r} lacks a blank after its colon, and is read as one key. Write"
    )
    if path[0] == "datasets":
        return f"{message} a blank after each colon; on the command line write `{_command({})}`."
    return f"{message} `{key}: {value}`; after --config, in quotes: '{path[0]}={{{key}: {value}}}'."


def _explain_no_name(datasets: Mapping[str, Any]) -> str:
    return (
        "datasets: the dataset's name is missing above `fasta`. Write on the command line "
        f"`{_command(datasets)}`; in a file, a name such as `mine:`, and its keys indented below "
        "it."
    )
