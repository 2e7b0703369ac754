"""A paragraph on the methods for a paper, and what it cites."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

from seqembed import __version__
from seqembed.errors import count_of, list_all
from seqembed.flags import TRUNCATED, WINDOWED
from seqembed.models.known import KNOWN
from seqembed.models.prepared import PreparedModel
from seqembed.report.contents import Contents

# As in CITATION.cff.
AUTHORS = "The seqembed developers"
TITLE = "seqembed: language-model embeddings of every sequence"
POOLINGS = {"mean": "the mean", "max": "the maximum, value by value,", "cls": "the row"}
Attributes = Mapping[str, str | int]


@dataclass(frozen=True, kw_only=True)
class Methods:
    """A paragraph, and the works that it cites."""

    paragraph: str
    citations: list[str]


def write_methods(
    attributes: Attributes, contents: Contents, width: int, model: PreparedModel | None
) -> Methods:
    """Describe how a result was made.

    attributes: of the result. width: D. model: as it was prepared; None if that is not known.
    """
    distinct = f" ({contents.distinct:,} distinct)" if contents.distinct < contents.rows else ""
    what = f"Embeddings of {count_of(contents.rows, 'sequence')}{distinct}"
    sentences = [
        f"{what} were computed with {_name(attributes, model)} by seqembed {__version__}.",
        _describe_rows(attributes, width, model),
        *_describe_tokens(model),
        _describe_precision(attributes),
    ]
    sentences += _describe_lengths(attributes, contents, model)
    if contents.lacking:
        sentences.append(f"{count_of(contents.lacking, 'more record')} could not be embedded.")
    if licence := attributes.get("licence"):
        sentences.append(f"The model's licence, {licence}, forbids commercial use.")
    model_citation = model.facts.citation if model else "the authors of the model"
    return Methods(
        paragraph=" ".join(sentences),
        citations=[model_citation, f"{AUTHORS}. {TITLE}. Version {__version__}."],
    )


def _name(attributes: Attributes, model: PreparedModel | None) -> str:
    name = f"the model {attributes['model']}"
    weights = f"weights with the SHA-256 {str(attributes['weights_sha256'])[:16]}…"
    if model is None:
        return f"{name} ({weights})"
    known = KNOWN.get(model.source)
    source = f"; {known.repository} at {known.revision[:12]}" if known else ""
    return f"{name} (of the family {' and '.join(model.facts.models)}{source}; {weights})"


def _describe_rows(attributes: Attributes, width: int, model: PreparedModel | None) -> str:
    layer, pooling = attributes["layer"], str(attributes["pooling"])
    last = model is not None and layer == model.architecture.layers
    which = f"the last layer ({layer})" if last else f"layer {layer}"
    whole = POOLINGS[pooling]
    if pooling == "cls":
        of = "of the first special token"
    elif model is None:
        of = "over a sequence's tokens"
    else:
        specials = "included" if model.facts.pools_specials else "not included"
        of = f"over all {model.facts.unit}, special tokens {specials}"
    return f"Each embedding is {whole} of {which} {of}: {width:,} values."


def _describe_tokens(model: PreparedModel | None) -> list[str]:
    """Return what of the model's input is not in the sequences, if that is built in."""
    if not model or not (vocabulary := model.facts.vocabulary):
        return []
    beside = {"before": vocabulary.before, "after": vocabulary.after}
    places = " and ".join(f"{' '.join(t)} {place}" for place, t in beside.items() if t)
    sentences = [f"The model read {places} each sequence or window."]
    if replaced := vocabulary.as_x.decode():
        sentences.append(f"{list_all(replaced, 'and')} were read as X.")
    return sentences


def _describe_precision(attributes: Attributes) -> str:
    where = f"on {attributes['device_name']}" if "device_name" in attributes else "on the CPU"
    torch = json.loads(str(attributes["package_versions"]))["torch"]
    made = f"Values were computed in {attributes['precision']} {where} with PyTorch {torch}"
    return f"{made} and stored as {attributes['storage']}."


def _describe_lengths(
    attributes: Attributes, contents: Contents, model: PreparedModel | None
) -> list[str]:
    limit = f"{attributes['max_length']:,} {model.facts.unit if model else 'tokens'}"
    long = sum(contents.flagged[flag] for flag in (WINDOWED, TRUNCATED))
    match attributes["long_sequences"]:
        case "window" if long:
            return [
                f"The {count_of(long, 'sequence')} longer than {limit} were read in windows of "
                "that length which overlap by half, and each token was taken from the window in "
                "which it stands farthest from an edge."
            ]
        case "truncate" if long:
            return [f"Of {count_of(long, 'sequence')} over {limit}, the first {limit} were read."]
        case "full":
            return ["Sequences of any length were read whole."]
    return []
