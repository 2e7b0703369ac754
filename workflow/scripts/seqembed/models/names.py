"""The names of models: other spellings of known ones, and advice for unknown ones."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Mapping

from seqembed.errors import shorten
from seqembed.models.known import KNOWN
from seqembed.storage.paths import as_name, expand

_HUB = re.compile(r"^(https?://)?(huggingface\.co|hf\.co)/")
_BY_REPOSITORY = {model.repository: model.name for model in KNOWN.values()}
_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+", re.ASCII)
_PLAIN_PATH = re.compile(r"[\w./~$+@%-]+")
_READ = "ESM-2, DNABERT-S or DNABERT-2"

# Families that users ask for and that have no encoder here yet, by a part of their names.
_UNREAD = {
    "ESM-1b": r"esm-?1b",
    "ESM-1v": r"esm-?1v",
    "ESM-1": r"esm-?1[_.-]",
    "MSA Transformer": r"esm[_-]?msa",
    "ESMFold": r"esmfold",
    "ESM-3": r"esm-?3",
    "ESM C": r"esm-?c(?![a-z])|esmplusplus",
    "ProtT5": r"prot-?_?t5",
    "ProstT5": r"prost-?_?t5",
    "ProtBERT": r"prot-?_?bert",
    "Ankh": r"ankh",
    "SaProt": r"saprot",
    "Nucleotide Transformer": r"nucleotide-?_?transformer",
    "the first DNABERT": r"dna_?-?bert_?-?[3456](?![0-9])",
}


def known_name(text: str) -> str | None:
    """The known model of this name, or of this repository or page of the hub; else None."""
    text = _HUB.sub("", text).rstrip("/")
    return text if text in KNOWN else _BY_REPOSITORY.get(text)


def model_name(text: str, models: Mapping[str, str]) -> str:
    """The name of a dataset's `model`: a key of `models`, else a known name, else unchanged."""
    return text if text in models else known_name(text) or text


def get_model_source(name: str, models: Mapping[str, str]) -> str:
    """Where a model comes from: the path that `models` gives, else its known name."""
    if name not in models:
        return name
    path = models[name]
    if path in KNOWN:
        # Without a separator it would be taken for the known model, and not for this folder.
        return f"./{path}"
    known = known_name(path)
    return known if known and not os.path.lexists(expand(path)) else path


def explain_model(place: str, model: str, models: Mapping[str, str]) -> str:
    """Say what to write where `model`, the setting at `place`, is neither known nor given."""
    beginning = f"{place} is {shorten(repr(model))}, which is no known name and does not stand"
    known = f"Known: {', '.join(KNOWN)}."
    if family := _unread_family(model):
        reason = f"It looks like {family}, which cannot be read yet; {_READ} can."
        return f"{beginning} under `models`. {reason} {known}"
    close = _close_names(model, [*models, *KNOWN])
    hint = f" Did you mean {' or '.join(close)}?" if close else ""
    return f"{beginning} under `models`.{hint} {known} {_advise(model)}"


def explain_missing_source(name: str, source: str) -> str:
    """Say what to write where the path that `models` gives does not exist."""
    message = f"models: {name}: {source} does not exist"
    if family := _unread_family(source):
        return f"{message}, and looks like {family}, which cannot be read yet"
    message += "; give the folder or file of the model"
    if not _REPOSITORY.fullmatch(source):
        return message
    folder = source.rpartition("/")[2]
    return f"{message}; if this is a repository, run `{_download(source)}` and give {folder}"


def _advise(model: str) -> str:
    """The lines to write, after --config and in a file, for a folder that may need a download."""
    name = as_name(model.rpartition("/")[2]) or "my_model"
    source = model if "/" in model and model.isprintable() else "/path/to/its_folder_or_file.pt"
    advice = "Of another model give the folder or .pt file under `models:`"
    if _REPOSITORY.fullmatch(model):
        source = name
        advice = f"If it is {_READ}, run `{_download(model)}`, give that folder under `models:`"
    if name != model:
        advice += f" and write `model: {name}` in the dataset"
    if _PLAIN_PATH.fullmatch(source):
        advice += f"; after --config, model={name} 'models={{{name}: {source}}}'; in a file"
    return f"{advice}:\nmodels:\n  {name}: {source}"


def _close_names(model: str, names: list[str]) -> list[str]:
    """The names like this one; else the one or two that it is a part of, such as 650M."""
    holding = [name for name in names if model.lower() in name.lower()]
    return difflib.get_close_matches(model, names) or (holding if len(holding) <= 2 else [])


def _download(repository: str) -> str:
    return f"hf download {repository} --local-dir {repository.rpartition('/')[2]}"


def _unread_family(text: str) -> str | None:
    name = text.rpartition("/")[2].lower()
    found = (family for family, pattern in _UNREAD.items() if re.search(pattern, name))
    return next(found, None)
