"""The models that are known by name, other names for them, and messages on unknown names."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass

from seqembed.errors import shorten
from seqembed.models.families import list_models
from seqembed.models.source import CONFIG, INDEX, PICKLED, SAFETENSORS, TOKENIZER, VOCABULARY
from seqembed.storage.paths import as_name, expand


@dataclass(frozen=True)
class KnownModel:
    """A model that is known by name, and its files in a repository of the Hugging Face hub.

    revision: a commit, so that a name always means the same weights. files: the SHA-256 of each
    needed file, 64 hex characters, or None if not known. Files that an index names are needed too.
    """

    name: str
    repository: str
    revision: str
    files: Mapping[str, str | None]


_ESM2_VOCABULARY = "0b82cc0a7c7cf9e567b1e5892d793285b9fbae822c964ca48696f7db44598e03"


def _esm2(size: str, revision: str, config: str | None, files: dict[str, str | None]) -> KnownModel:
    """Return a known ESM-2; config: the SHA-256 of config.json; files: of each other file."""
    name = f"esm2_{size}_UR50D"
    files = {CONFIG: config, VOCABULARY: _ESM2_VOCABULARY} | files
    return KnownModel(name, f"facebook/{name}", revision, files)


def _esmc(size: str, revision: str, config: str, files: dict[str, str | None]) -> KnownModel:
    """Return a known ESM C; config: the SHA-256 of config.json; files: of each other file."""
    return KnownModel(
        f"esmc_{size.lower()}", f"biohub/ESMC-{size}", revision, {CONFIG: config} | files
    )


def _esm1(name: str, revision: str) -> KnownModel:
    """Return a known ESM-1b or ESM-1v, of whose files no hash is known."""
    files = {CONFIG: None, VOCABULARY: None, PICKLED: None}
    return KnownModel(name, f"facebook/{name}", revision, files)


_MODELS = (
    _esm2(
        "t6_8M",
        "c731040fcd8d73dceaa04b0a8e6329b345b0f5df",
        "facb9355e8252149f6f99dff5fd1e32e890c3c655362b261d0c81cd6b5839c85",
        {SAFETENSORS: "24c5fa474c48f3b754b86efe752d5f189d2bcd88190fa2270fc92b2ef3034189"},
    ),
    _esm2(
        "t12_35M",
        "6fbf070e65b0b7291e7bbcd451118c216cff79d8",
        "ae07364efa51e0fa1d81da3fe608f6d948abdbbb69785ba6e1df379a458e58ee",
        {SAFETENSORS: "e35647818e0e064351d4531ed480d225a002567b4b2b93ad3a9246d753150fc0"},
    ),
    _esm2(
        "t30_150M",
        "a695f6045e2e32885fa60af20c13cb35398ce30c",
        "e512f68ec444d99477703a9806639ca83da3dbc19f6c5fe428d6e5b7460972dc",
        {SAFETENSORS: "c3f1da8aea53bddd32c246c86168c23b9fd72341fb9db9a94436f855f5053566"},
    ),
    _esm2(
        "t33_650M",
        "08e4846e537177426273712802403f7ba8261b6c",
        "539095c22efc52a09d6147074ba4ca119f76a890df5901213b2b55f7d2f96b2b",
        {SAFETENSORS: "a08adabb949fa67ad3c14b509d04fd60368b35007b0095e3358f81200c4f4db0"},
    ),
    _esm2(
        "t36_3B",
        "476b639933c8baad5ad09a60ac1a87f987b656fc",
        None,
        {
            PICKLED + INDEX: None,
            "pytorch_model-00001-of-00002.bin": (
                "0f971f11c449d21422aa982b791619c10351972992c735f4c3cd43fe09790412"
            ),
            "pytorch_model-00002-of-00002.bin": (
                "7560b46fc383c691fb74b915b7d4bcef40d3df181447f16ba4b298845e308d0c"
            ),
        },
    ),
    _esm2(
        "t48_15B",
        "5fbca39631164edc1d402a5aa369f982f72ee282",
        None,
        {VOCABULARY: None, PICKLED + INDEX: None},
    ),
    _esmc(
        "300M",
        "a59b831785f907e96e6a246b1d142bfb76df31ee",
        "0d4c14b1e7192175b5ce8bb6c0eaa6b06c02645d49d6708c84fc3c765fe83a04",
        {SAFETENSORS: "0772d8fe64bb25e14fe6f23b80e3c9a7d215d0da3c6cba5bd356d7c0e0bb22cc"},
    ),
    _esmc(
        "600M",
        "a7e82012c83126b9eedb055fea9fa84b6c02f094",
        "d7472be972ebd9f6d3afa659ca35a8080c8e4462813dd9801827329659ee9c43",
        {SAFETENSORS: "e4232c30fd35fe2f57051ec88a703996ac94520580b4b836894207a3d45d9ff8"},
    ),
    _esmc(
        "6B",
        "45b0fa5d7fb06faefbd5e3b89bdcef35d564e79a",
        "c5566fab6a17fd674141331fe75de917b7904d99fb7a410d2b1593c21e576913",
        {
            SAFETENSORS + INDEX: (
                "6846456e20e6ee2c37461f7bfc21d316d69bdaf165b925691afcb39e583244da"
            ),
            "model-00001-of-00006.safetensors": (
                "bd90149ff223e6ac1a0cac6147a5ae0df20d3a21df4f65356a1f19cd14f4aa8a"
            ),
            "model-00002-of-00006.safetensors": (
                "f75e2144d8269fe2eb4b3e0823fb089b94f176d8024153e85b8fb573a42294fa"
            ),
            "model-00003-of-00006.safetensors": (
                "f699f01ecc9691d9c6470492765fe54b8b5d2e9f277c139e89427433ffdfe0b2"
            ),
            "model-00004-of-00006.safetensors": (
                "46add1b7be098bbfdc3073884851ba3057f1b33ea23a158b650a37007dabd13d"
            ),
            "model-00005-of-00006.safetensors": (
                "1e1cb62f060a34e18f54a31a76683ef888b8cec59e73315f5b31d25d45a1f88c"
            ),
            "model-00006-of-00006.safetensors": (
                "56c73e13ae96e777ce65eee99364056069ef93b646470f352f83c5f1037b1b18"
            ),
        },
    ),
    _esm1("esm1b_t33_650M_UR50S", "7b37824baec4d3658e1df7479222a7c79b465b76"),
    _esm1("esm1v_t33_650M_UR90S_1", "8bfdb1892536cc77bd0760b9c25ddced2cd0b4c8"),
    _esm1("esm1v_t33_650M_UR90S_2", "3c1e9e64480f069b163e456c361bfd80a8bab04c"),
    _esm1("esm1v_t33_650M_UR90S_3", "0b00fd112e63f6b5e70a9cd8484d4e660312ce70"),
    _esm1("esm1v_t33_650M_UR90S_4", "443968f644da132d323bbc6321a6d443149fa57b"),
    _esm1("esm1v_t33_650M_UR90S_5", "fb2e51cb0f605cbad2c4ca3bb784be7bc8e2f4a8"),
    KnownModel(
        "DNABERT-S",
        "zhihan1996/DNABERT-S",
        "00e47f96cdea35e4b6f5df89e5419cbe47d490c6",
        {
            CONFIG: "d54c142114563aa34ef7c2b54ccc921d08e50cd7c3cd69c439d5e0d2bbcfcdee",
            TOKENIZER: "667f5a0e6e9630f7052b004784dda7c7aeba395cc4ca3c01b11b02e6aa29d7b1",
            PICKLED: "f3cfc3d0541859df64759e758cc4bc40fe1d5760799a7d098a9f9f09501c1e5f",
        },
    ),
    KnownModel(
        "DNABERT-2",
        "zhihan1996/DNABERT-2-117M",
        "7bce263b15377fc15361f52cfab88f8b586abda0",
        {
            CONFIG: "ba9bdafaff0cc3e30556927474d4a179519a9864012bed2628e9f1bc23c84bfd",
            TOKENIZER: "5d178e8ce2ba55df97fff197f4b30f40133b95d7096be398c2df6b526c5d8cd3",
            PICKLED: "7ff39ec77a484dd01070a41bfd6e95cdd7247bec80fe357ab43a4be33687aeba",
        },
    ),
)

# The known models by name.
KNOWN = {model.name: model for model in _MODELS}
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
    "ProtT5": r"prot-?_?t5",
    "ProstT5": r"prost-?_?t5",
    "ProtBERT": r"prot-?_?bert",
    "Ankh": r"ankh",
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
    names = {name.lower(): name for name in (*models, *KNOWN)}
    # A part of a name, such as 150M, is a hint if at most two names contain it.
    holding = [name for name in names if model.lower() in name]
    near = difflib.get_close_matches(model.lower(), names)
    close = [names[name] for name in near or (holding if len(holding) <= 2 else [])]
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
