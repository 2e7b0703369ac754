"""Write and read `{model}.json`, which describes a prepared model.

Rules have this file as input, so it has the same bytes for the same model. Needs no PyTorch.
"""

from __future__ import annotations

import hashlib
import os
import sys
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from threading import Thread

from seqembed.errors import ConfigError, ModelError
from seqembed.models.architectures import Architecture
from seqembed.models.encoders.tokenization import (
    BpeTokenizer,
    ResidueTokenizer,
    Tokenizer,
    complete_vocabulary,
)
from seqembed.models.families import Family, find_family
from seqembed.models.source import list_weight_files
from seqembed.storage.json_files import hash_json, read_json, write_json

FORMAT_VERSION = "1"
# The kernel reads no more than its own read-ahead, by default 128 KiB, at one request.
REQUEST_BYTES = 1 << 17


@dataclass(frozen=True, kw_only=True)
class PreparedModel:
    """The content of `{model}.json`.

    source: the model's folder, file or known name, as the user gave it. weights: the path of the
    safetensors file or index; if relative, then to the working folder. size (in bytes) and sha256
    (64 hex characters): of the weights' file, or of the index and, sorted, the files that it names.
    tokenizer: the name of the family's vocabulary, or the sha256 of tokenizer_file. max_length:
    Family.max_length. original: the file or index from which the weights were converted; None if
    they were not converted.
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

    @property
    def facts(self) -> Family:
        """The facts that all models of this model's family share."""
        return find_family(self.family)

    def layer(self, asked: str | int) -> int:
        """Return a layer's number; asked: a number or "last". ConfigError if no layer has it."""
        last = self.architecture.layers
        number = last if asked == "last" else int(asked)
        if not 0 <= number <= last:
            raise ConfigError(
                f"layer {number} is asked for, but {self.name} has layers 0 (its embeddings) to "
                f"{last}; set `embedding: {{layer: last}}` or a number from 0 to {last}"
            )
        return number

    def check_pooling(self, pooling: str) -> None:
        """Raise ConfigError if `pooling` takes the row of a token that the model does not have."""
        if pooling == "cls" and not self.facts.has_cls:
            message = f"pooling is cls, but {self.name} has no token for the whole sequence"
            raise ConfigError(f"{message}; set `embedding: {{pooling: mean}}`")

    def longest(self, asked: str | int) -> int:
        """Return the most tokens, without special ones, read at once; "auto" means max_length.

        Raises ConfigError if the model has no positions for that many.
        """
        number = self.max_length if asked == "auto" else int(asked)
        if self.facts.positions_end and number > self.max_length:
            raise ConfigError(
                f"max_length is {number:,}, but {self.name} has no positions after "
                f"{self.max_length:,} residues; set `embedding: {{max_length: auto}}`, or a number "
                f"up to {self.max_length:,}"
            )
        return number

    @property
    def fingerprint(self) -> str:
        """The SHA-256 of `sha256` and `architecture` together, 64 hex characters."""
        content = {"sha256": self.sha256, "architecture": asdict(self.architecture)}
        return hash_json(content, 32)


def write_prepared(model: PreparedModel, path: Path) -> None:
    """Write `{model}.json`, and sync it to disk; keys whose value is None are left out."""
    content = {key: value for key, value in asdict(model).items() if value is not None}
    write_json(path, "model", FORMAT_VERSION, content)


def read_prepared(path: Path) -> PreparedModel:
    """Return the content of `{model}.json`, without unknown keys.

    Raises ModelError if the file is missing, damaged or of another format version.
    """
    try:
        content = read_json(path, "model", FORMAT_VERSION)
        kind = find_family(content["family"]).architecture
        sizes = {field.name: content["architecture"][field.name] for field in fields(kind)}
        known = {f.name: content[f.name] for f in fields(PreparedModel) if f.name in content}
        return PreparedModel(**known | {"architecture": kind(**sizes)})
    except (ModelError, OSError, ValueError, KeyError, TypeError) as error:
        reason = f"{error} is missing" if isinstance(error, KeyError) else error
        message = f"does not describe a prepared model ({reason})"
        raise ModelError(f"{path}: {message}; remove it and run again") from error


def load_tokenizer(model: PreparedModel) -> Tokenizer:
    """Return the model's tokenizer; raise ModelError if its file is missing or has changed."""
    vocabulary = model.facts.vocabulary
    if vocabulary and not model.facts.reads_tokenizer:
        return ResidueTokenizer(vocabulary)
    path = Path(model.tokenizer_file or "")
    advice = f"put the old file back, or remove resources/models/{model.name}.json and run again"
    if not path.is_file():
        raise ModelError(f"{path}: is missing; {advice}")
    if sha256_of(path) != model.tokenizer:
        raise ModelError(f"{path}: changed since the model was prepared; {advice}")
    if vocabulary:
        return ResidueTokenizer(complete_vocabulary(vocabulary, path))
    return BpeTokenizer(path)


def error_of_change(model: PreparedModel, path: Path) -> ModelError:
    """Return the error for weights that have changed; path: the model's `{model}.json`."""
    message = "changed since it was prepared; put the old file back, or, to take the new one,"
    return ModelError(f"{model.weights}: {message} remove {path} and run again")


def sha256_of(*paths: Path) -> str:
    """Return the SHA-256 of the bytes of all files, one after another, as 64 hex characters."""
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            hashlib.file_digest(file, lambda: digest)
    return digest.hexdigest()


def read_ahead(model: Path) -> None:
    """Ask the kernel to read a model's weights into memory; model: the path of `{model}.json`.

    If weights cannot be read, nothing happens.
    """
    if sys.platform != "linux":
        return
    with suppress(ModelError, OSError):
        for path in list_weight_files(Path(read_prepared(model).weights)):
            with path.open("rb") as file:
                for start in range(0, path.stat().st_size, REQUEST_BYTES):
                    advice = (start, REQUEST_BYTES, os.POSIX_FADV_WILLNEED)
                    os.posix_fadvise(file.fileno(), *advice)


class WeightsCheck(Thread):
    """Checks the weights' SHA-256 in a thread, while the first batches are computed.

    Only a checksum finds errors of the disk, but waiting for it would delay every start. So a
    worker waits only when it is about to write its first result. path: `{model}.json`.
    """

    def __init__(self, path: Path, model: PreparedModel) -> None:
        # A daemon thread: a process that ends does not wait for this thread.
        super().__init__(name="weights check", daemon=True)
        self._path, self._model = path, model
        self._error: ModelError | None = None

    def require(self) -> None:
        """Wait for the check, if started; ModelError if weights changed or cannot be read."""
        if self.ident is not None:
            self.join()
        if self._error:
            raise self._error

    def run(self) -> None:
        """Compute the checksum; `start` calls this method in the thread."""
        weights = Path(self._model.weights)
        try:
            if sha256_of(*list_weight_files(weights)) != self._model.sha256:
                self._error = error_of_change(self._model, self._path)
        except (OSError, ModelError) as error:
            message = f"cannot be read again ({error}); make it readable and run again"
            self._error = ModelError(f"{weights}: {message}")
