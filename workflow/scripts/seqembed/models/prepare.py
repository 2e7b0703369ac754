"""Prepare a model once, so that workers find checked safetensors weights and how to read them.

`{model}.json` is what rules depend on: content only, the same bytes for the same model.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from seqembed.errors import ModelError
from seqembed.files import published
from seqembed.models.esm2 import MAX_LENGTH, Esm2, Esm2Architecture
from seqembed.models.source import CONFIG, SAFETENSORS
from seqembed.models.weights import (
    Checkpoint,
    build_model,
    read_checkpoint,
    read_safetensors,
)

FORMAT_VERSION = "1"
KIND = "model"
FAMILY = TOKENIZER = "esm2"


@dataclass(frozen=True, kw_only=True)
class PreparedModel:
    """What `{model}.json` records; raises ModelError for what no model can have.

    source: as the user gave it; weights: the safetensors file, relative to the working folder
    unless the source was absolute; size: its bytes; sha256: its checksum, 64 hex characters;
    max_length: residues the model was trained on at once, without BOS and EOS.
    """

    name: str
    family: str
    source: str
    weights: str
    size: int
    sha256: str
    architecture: Esm2Architecture
    tokenizer: str
    max_length: int

    def __post_init__(self) -> None:
        for field in ("name", "family", "source", "weights", "sha256", "tokenizer"):
            if not isinstance(value := getattr(self, field), str) or not value:
                raise ModelError(f"{field} must be a text, not {value!r}")
        for field in ("size", "max_length"):
            if type(value := getattr(self, field)) is not int or value < 1:
                raise ModelError(f"{field} must be a positive whole number, not {value!r}")
        if self.family != FAMILY or self.tokenizer != TOKENIZER:
            raise ModelError(f"{self.family!r} with tokenizer {self.tokenizer!r} is not known")
        if not re.fullmatch("[0-9a-f]{64}", self.sha256):
            raise ModelError(f"sha256 must be 64 hex characters, not {self.sha256!r}")

    def longest(self, asked: str | int) -> int:
        """The most residues of a sequence that reach the model; `auto` is the model's own limit."""
        return self.max_length if asked == "auto" else int(asked)

    @property
    def fingerprint(self) -> str:
        """64 hex characters that stand for the weights and the architecture."""
        content = {"sha256": self.sha256, "architecture": asdict(self.architecture)}
        canonical = json.dumps(content, sort_keys=True, separators=(",", ":"))
        return hashlib.blake2b(canonical.encode(), digest_size=32).hexdigest()


def prepare_model(name: str, source: str, output: Path) -> None:
    """Check the model at `source` and describe it in `output`, resources/models/{name}.json.

    A safetensors file is used where it lies; other weights are converted to
    `{name}/model.safetensors` beside `output`.

    Raises:
        ModelError: the source is no ESM-2 that can be loaded.
    """
    checkpoint = read_checkpoint(Path(source))
    # Built only to be sure: a bad model fails here, not on a GPU.
    build_model(checkpoint)
    weights = checkpoint.path
    if weights.suffix != ".safetensors":
        weights = _convert(checkpoint, output.parent / name / SAFETENSORS)
    model = PreparedModel(
        name=name,
        family=FAMILY,
        source=source,
        weights=str(weights),
        size=weights.stat().st_size,
        sha256=_sha256(weights),
        architecture=checkpoint.architecture,
        tokenizer=TOKENIZER,
        max_length=MAX_LENGTH,
    )
    _write(model, output)


def read_prepared(path: Path) -> PreparedModel:
    """Read `{model}.json`; keys that this version does not know are passed over.

    Raises:
        ModelError: the file is missing, damaged, or of another format version.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return _parse(content)
    except (ModelError, OSError, ValueError) as error:
        message = f"no description of a model that can be read ({error})"
        raise ModelError(f"{path}: {message}; remove it and run again") from error


def load_prepared(path: Path) -> Esm2:
    """The model that `{model}.json` describes, in eval mode, float32.

    Raises:
        ModelError: the description cannot be read, or the weights are not those it describes.
    """
    model = read_prepared(path)
    weights = Path(model.weights)
    if not weights.is_file():
        raise ModelError(f"{weights}: is missing; put it back, or remove {path} and run again")
    if _changed(model, path):
        message = "changed since it was prepared"
        raise ModelError(f"{weights}: {message}; remove {path} and run again")
    state = read_safetensors(weights)
    return build_model(Checkpoint(architecture=model.architecture, state=state, path=weights))


def _convert(checkpoint: Checkpoint, path: Path) -> Path:
    """Write the checkpoint's tensors, under their own names, as a safetensors file."""
    if (path.parent / CONFIG).exists():
        message = "is a model's own folder, so the converted weights cannot be written there"
        raise ModelError(f"{path.parent}: {message}; give the model another name in `models`")
    with published(path) as temporary:
        save_file({name: _own(tensor) for name, tensor in checkpoint.state.items()}, temporary)
        # safetensors makes files for their owner only; a group shares its models.
        temporary.chmod(0o644)
    return path


def _own(tensor: Tensor) -> Tensor:
    # Tied weights share their storage, which safetensors refuses.
    return tensor.detach().clone().contiguous()


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _changed(model: PreparedModel, path: Path) -> bool:
    """Whether the weights differ from those described; read in full only where they may."""
    weights, described = Path(model.weights).stat(), path.stat()
    if weights.st_size != model.size:
        return True
    # A file moved or copied in keeps an old mtime, but its ctime is new.
    touched = max(weights.st_mtime_ns, weights.st_ctime_ns)
    return touched >= described.st_mtime_ns and _sha256(Path(model.weights)) != model.sha256


def _write(model: PreparedModel, path: Path) -> None:
    content = {"format_version": FORMAT_VERSION, "kind": KIND, **asdict(model)}
    with published(path) as temporary:
        text = json.dumps(content, sort_keys=True, indent=2, ensure_ascii=False) + "\n"
        temporary.write_text(text, encoding="utf-8")


def _parse(content: Any) -> PreparedModel:
    """The description in a parsed JSON file."""
    if not isinstance(content, dict) or content.get("kind") != KIND:
        raise ModelError("it describes no model")
    if (version := content.get("format_version")) != FORMAT_VERSION:
        raise ModelError(f"format version {version!r} is not known")
    values = _pick(content, PreparedModel)
    architecture = _pick(values.pop("architecture"), Esm2Architecture)
    return PreparedModel(architecture=Esm2Architecture(**architecture), **values)


def _pick(content: Any, kind: type[PreparedModel] | type[Esm2Architecture]) -> dict[str, Any]:
    """The values of each field of `kind`; ModelError for one that is missing."""
    names = [field.name for field in fields(kind)]
    if not isinstance(content, Mapping):
        raise ModelError(f"{content!r} stands where {', '.join(names)} should")
    if missing := [name for name in names if name not in content]:
        raise ModelError(f"{missing[0]} is missing")
    return {name: content[name] for name in names}
