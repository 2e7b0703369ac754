"""`{model}.json`, which describes a prepared model: rules depend on it, and workers load it.

Content only: the same bytes for the same model. No PyTorch is needed to read it.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from seqembed.errors import ConfigError, ModelError
from seqembed.models.encoders.tokenization import BpeTokenizer, Esm2Tokenizer, Tokenizer
from seqembed.models.families import Architecture, Family, check_fields, find_family
from seqembed.storage.json_files import hash_json, read_json, write_json

FORMAT_VERSION = "1"
KIND = "model"
# The tokenizer that needs no file.
BUILT_IN = "esm2"


@dataclass(frozen=True, kw_only=True)
class PreparedModel:
    """The content of `{model}.json`; raises ModelError for values that no model has.

    source: as the user gave it. weights: the safetensors file, or the index of several, relative
    to the working folder unless the source was absolute; size: its bytes; sha256: its checksum, 64
    hex characters. Of several files, both are of the index and then the parts in name order, one
    after the other (as `cat` has them). tokenizer: its name, or the sha256 of tokenizer_file.
    max_length: tokens, specials left out, that the model was trained on at once. original: the
    file that the weights were converted from, if they were, and its checksum.
    """

    name: str
    family: str
    source: str
    weights: str
    size: int
    sha256: str
    architecture: Architecture
    tokenizer: str
    max_length: int
    tokenizer_file: str | None = None
    original: str | None = None
    original_sha256: str | None = None

    def __post_init__(self) -> None:
        check_fields(self)
        if not isinstance(self.architecture, self.facts.architecture):
            raise ModelError(f"{self.architecture!r} is not of the family {self.family}")
        if (self.tokenizer == BUILT_IN) != (self.tokenizer_file is None):
            raise ModelError(f"tokenizer {self.tokenizer!r} with file {self.tokenizer_file!r}")
        if not re.fullmatch("[0-9a-f]{64}", self.sha256):
            raise ModelError(f"sha256 must be 64 hex characters, not {self.sha256!r}")

    @property
    def facts(self) -> Family:
        """The facts that all models of its family share."""
        return find_family(self.family)

    def layer(self, asked: str | int) -> int:
        """The number of a layer, `last` being the model's own; ConfigError for one it lacks."""
        last = self.architecture.layers
        number = last if asked == "last" else int(asked)
        if not 0 <= number <= last:
            raise ConfigError(
                f"layer {number} is asked for, but {self.name} has layers 0 (its embeddings) to "
                f"{last}; set `embedding: {{layer: last}}` or one of these"
            )
        return number

    def longest(self, asked: str | int) -> int:
        """The most tokens of a sequence that go through the model; `auto` is its own limit."""
        return self.max_length if asked == "auto" else int(asked)

    @property
    def fingerprint(self) -> str:
        """The identity of the weights and the architecture, 64 hex characters."""
        content = {"sha256": self.sha256, "architecture": asdict(self.architecture)}
        return hash_json(content, 32)


def write_prepared(model: PreparedModel, path: Path) -> None:
    """Write `{model}.json` durably; a key without a value is left out."""
    content = {key: value for key, value in asdict(model).items() if value is not None}
    write_json(path, KIND, FORMAT_VERSION, content)


def read_prepared(path: Path) -> PreparedModel:
    """Read `{model}.json`; keys that this version does not know are passed over.

    Raises ModelError for a file that is missing, damaged, or of another format version.
    """
    try:
        content = read_json(path, KIND, FORMAT_VERSION)
        kind = find_family(content["family"]).architecture
        sizes = {field.name: content["architecture"][field.name] for field in fields(kind)}
        known: dict[str, Any] = {f.name: content.get(f.name) for f in fields(PreparedModel)}
        return PreparedModel(**known | {"architecture": kind(**sizes)})
    except (ModelError, OSError, ValueError, KeyError, TypeError) as error:
        reason = f"{error} is missing" if isinstance(error, KeyError) else error
        message = f"does not describe a prepared model ({reason})"
        raise ModelError(f"{path}: {message}; remove it and run again") from error


def load_tokenizer(model: PreparedModel) -> Tokenizer:
    """The model's tokenizer; ModelError where its file is missing or has changed."""
    if model.tokenizer_file is None:
        return Esm2Tokenizer()
    path = Path(model.tokenizer_file)
    advice = "put the old file back, or remove the model's .json and run again"
    if not path.is_file():
        raise ModelError(f"{path}: is missing; {advice}")
    if sha256_of(path) != model.tokenizer:
        raise ModelError(f"{path}: changed since the model was prepared; {advice}")
    return BpeTokenizer(path)


def error_of_change(model: PreparedModel, path: Path) -> ModelError:
    """The error of weights that are not those which `path`, a `{model}.json`, describes."""
    message = "changed since it was prepared; put the old file back, or"
    return ModelError(f"{model.weights}: {message} remove {path} and run again")


def sha256_of(*paths: Path) -> str:
    """The sha256 of the files' bytes one after the other, 64 hex characters."""
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            hashlib.file_digest(file, lambda: digest)
    return digest.hexdigest()
