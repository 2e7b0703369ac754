"""What users may call a model, and messages on names of no known model."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Mapping

from seqembed.errors import shorten
from seqembed.models.families import list_models
from seqembed.models.known import KNOWN
from seqembed.storage.paths import as_name, expand

_HUB = re.compile(r"^(https?://)?(huggingface\.co|hf\.co)/")
_BY_REPOSITORY = {model.repository: model.name for model in KNOWN.values()}
_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+", re.ASCII)
_PLAIN_PATH = re.compile(r"[\w./~$+@%-]+")
_SUPPORTED = list_models("or")

# Families that this program cannot read yet, and what the names of their models contain.
_UNREAD = {
    "ESM-1": r"esm-?1[_.-]",
    "MSA Transformer": r"esm[_-]?msa",
    "ESMFold": r"esmfold",
    "ESM-3": r"esm-?3",
    "ESM++": r"esmplusplus",
    "ProtBERT": r"prot-?_?bert",
    "SaProt": r"saprot",
    "Nucleotide Transformer": r"nucleotide-?_?transformer",
    "the first DNABERT": r"dna_?-?bert_?-?[3456](?![0-9])",
}


def known_name(text: str) -> str | None:
    """Return a known model's name, if `text` is its name, repository or hub address; else None."""
    text = _HUB.sub("", text).rstrip("/")
    return text if text in KNOWN else _BY_REPOSITORY.get(text)


def model_name(text: str, models: Mapping[str, str]) -> str:
    """Return the name of the model that a dataset means by `text`, its setting `model`.

    The repository or hub address of a known model becomes its known name. A key of `models`, which
    is the setting of that name, and any other text are returned unchanged.
    """
    return text if text in models else known_name(text) or text


def get_model_source(name: str, models: Mapping[str, str]) -> str:
    """Return where the model `name` comes from: a known name, or the path of a folder or file.

    models: the setting `models`: a name's path, or a known model's repository or hub address.
    """
    if name not in models:
        return name
    path = models[name]
    if path in KNOWN:
        # "./" tells a folder of the user's from the known model of the same name.
        return f"./{path}"
    known = known_name(path)
    return known if known and not os.path.lexists(expand(path)) else path


def explain_model(place: str, model: str, models: Mapping[str, str]) -> str:
    """Return the message on a setting whose value, `model`, names no model.

    place: the setting, such as datasets.mine.model. models: the setting `models`.
    """
    beginning = f"{place} is {shorten(repr(model))}, which is neither a known name nor a key"
    known = f"Known: {', '.join(KNOWN)}."
    if family := _unread_family(model):
        reason = f"It looks like {family}, which cannot be read yet; {_SUPPORTED} can."
        return f"{beginning} of `models`. {reason} {known}"
    names = {_plain(name): name for name in (*models, *KNOWN)}
    # Other tools spell a name in another way, or give a part of it, such as 150M.
    holding = [name for name in names if _plain(model) in name] or list(names)
    near = holding if len(holding) <= 3 else difflib.get_close_matches(_plain(model), holding)
    close = [names[name] for name in near]
    hint = f" Did you mean {' or '.join(close)}?" if close else ""
    return f"{beginning} of `models`.{hint} {known} {_advise(model)}"


def explain_missing_source(name: str, source: str) -> str:
    """Return the message on the entry `name: source` of `models`, if nothing is at `source`."""
    message = f"models: {name}: {source} does not exist"
    if family := _unread_family(source):
        return f"{message}, and looks like {family}, which cannot be read yet"
    message += "; give the folder or file of the model"
    if not _REPOSITORY.fullmatch(source):
        return message
    folder = source.rpartition("/")[2]
    return f"{message}; if this is a repository, run `{_download(source)}` and give {folder}"


def _plain(name: str) -> str:
    return re.sub("[-_]", "", name.lower())


def _advise(model: str) -> str:
    name = as_name(model.rpartition("/")[2]) or "my_model"
    source = model if "/" in model and model.isprintable() else "/path/to/its_folder_or_file.pt"
    advice = "For another model, give its folder or .pt file under `models:`"
    if _REPOSITORY.fullmatch(model):
        source = name
        advice = (
            f"If it is {_SUPPORTED}, run `{_download(model)}`, give that folder under `models:`"
        )
    if name != model:
        advice += f" and write `model: {name}` in the dataset"
    if _PLAIN_PATH.fullmatch(source):
        advice += f"; after --config, model={name} 'models={{{name}: {source}}}'; in a file"
    return f"{advice}:\nmodels:\n  {name}: {source}"


def _download(repository: str) -> str:
    return f"hf download {repository} --local-dir {repository.rpartition('/')[2]}"


def _unread_family(text: str) -> str | None:
    name = text.rpartition("/")[2].lower()
    found = (family for family, pattern in _UNREAD.items() if re.search(pattern, name))
    return next(found, None)
