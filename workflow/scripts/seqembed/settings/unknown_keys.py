"""What is said of a key that the configuration does not have: what was meant, and where it goes."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping
from typing import Any

_PLAIN = re.compile(r"[\w.-]{1,60}", re.ASCII)
# What a user may call the number of GPUs, which is Snakemake's resource `gpu`.
OTHER_GPU_NAMES = ("gpus", "ngpu", "ngpus", "num_gpus", "nvidia_gpu")
_CORES = ("cores", "cpus", "threads", "jobs")
_SEQUENCES = ("input", "inputs", "file", "files", "sequences", "sequence", "proteins", "contigs")
_RESULTS = ("output", "out", "outdir", "output_dir", "outfile", "results")

# What a user may take for a key, in lower case.
_ELSEWHERE = {
    **dict.fromkeys(
        ("gpu", *OTHER_GPU_NAMES), "The number of GPUs is Snakemake's own: write --resources gpu=2."
    ),
    **dict.fromkeys(_CORES, "This is Snakemake's own: write --cores 4."),
    **dict.fromkeys(_SEQUENCES, "The sequences are given as `fasta`."),
    **dict.fromkeys(
        _RESULTS, "Results go to results/NAME of the folder that --directory names; give `name`."
    ),
}


def explain_unknown(key: object, known: Mapping[str, Any], value: object) -> str:
    """Say what was meant by a key that is not among the properties `known`, if that is clear."""
    hint = _guess(str(key).lower(), known, value)
    return f"is no key of the configuration.{hint} Known here: {', '.join(known)}."


def _guess(key: str, known: Mapping[str, Any], value: object) -> str:
    # `precision` at the top is a known key in the wrong place: look further down as well.
    inner = {path.rpartition(".")[2]: path for path in _key_paths(known)}
    if "fasta" in known and key in _ELSEWHERE and key not in inner:
        return f" {_ELSEWHERE[key]}"
    close = difflib.get_close_matches(key, inner, n=1)
    return f" Did you mean {_placed(inner[close[0]], value)}?" if close else ""


def _placed(path: str, value: object) -> str:
    """A key's path, with what to write where it is below another and its value is plain."""
    above, _, key = path.rpartition(".")
    text = str(value).lower() if isinstance(value, bool) else str(value)
    if not above or "." in above or not _PLAIN.fullmatch(text):
        return path
    return f"{path}, after --config '{above}={{{key}: {text}}}'"


def _key_paths(known: Mapping[str, Any]) -> Iterator[str]:
    for key, node in known.items():
        yield key
        yield from (f"{key}.{path}" for path in _key_paths(node.get("properties", {})))
