"""What a stranger wrote is data: no file, text or setting of theirs is ever run."""

from __future__ import annotations

import ast
import hashlib
import io
import json
import logging
import os
import pickle
import re
import shutil
import sys
import tarfile
import tokenize
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from seqembed.checkpoints import blocks
from seqembed.checkpoints.blocks import list_blocks, read_block, write_next_block
from seqembed.checkpoints.checkpoint import clear, read_finished
from seqembed.checkpoints.token_rows import ResidueSpool
from seqembed.environment import EnvConfig
from seqembed.errors import CheckpointError, ConfigError, DeviceError, ModelError
from seqembed.machine.devices import lease_device
from seqembed.models.prepare import prepare_model
from seqembed.models.source import list_weight_files
from seqembed.settings.schema import complete, load_schema
from seqembed.settings.yaml_file import check_yaml

ROOT = Path(__file__).parents[2]
BUNDLED = ROOT / "tests/data/esm2_random"
LOGGER = logging.getLogger("test_security")
OUTPUT = Path("resources/models/mine.json")
PAYLOAD = "$(touch PWNED)`touch PWNED`;touch PWNED"


# The program

# pickle's kin, which run what they read, and what starts programs or fetches code.
MODULES = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
MODULES |= {"subprocess", "pty", "code", "runpy", "imp", "jsonpickle", "builtins"}
CALLS = {"eval", "exec", "compile", "__import__", "importlib.import_module"}
CALLS |= {"os.system", "os.popen", "os.startfile", "torch.jit.load", "np.load", "numpy.load"}
CALLS |= {"yaml.load", "yaml.load_all", "yaml.full_load", "yaml.unsafe_load"}
FAMILIES = ("os.exec", "os.spawn", "os.posix_spawn", "torch.hub.")
OPTIONS = {"shell", "allow_pickle", "trust_remote_code"}
# A whole module's members come by another name.
MEMBERS = {"os": ("system", "popen"), "yaml": ("load",), "torch": ("load",), "numpy": ("load",)}
SCRIPTS = sorted((ROOT / "workflow").rglob("*.py"))
RULES = [ROOT / "Snakefile", *sorted((ROOT / "workflow").rglob("*.smk"))]


def forbidden(source: str) -> list[str]:
    """What in a program's text could run another's."""
    return [word for node in ast.walk(ast.parse(source)) for word in _forbidden(node)]


def _forbidden(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names if alias.name.split(".")[0] in MODULES)
    elif isinstance(node, ast.ImportFrom):
        module = str(node.module)
        names = [alias.name for alias in node.names]
        if module.split(".")[0] in MODULES:
            yield module
        yield from (n for n in names if n in MEMBERS.get(module, ()))
    elif isinstance(node, ast.Call):
        yield from _forbidden_call(node)


def _forbidden_call(node: ast.Call) -> Iterator[str]:
    name = ast.unparse(node.func)
    options = {word.arg: ast.unparse(word.value) for word in node.keywords}
    if name in CALLS or name.startswith(FAMILIES):
        yield name
    if name == "torch.load" and options.get("weights_only") != "True":
        yield name
    yield from (word for word, value in options.items() if word in OPTIONS and value != "False")


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_no_program_of_ours_could_run_what_it_reads(path):
    """torch.load is allowed with weights_only: its reader builds tensors and plain containers.

    The processes of one run do speak to each other in pickle, over pipes that only they hold. And
    slurm_step.py starts the program that it is part of once more, with the same words. liveness.py
    asks Slurm's squeue about the user ids of files, which are numbers.
    """
    own = {"slurm_step": ["os.execvpe"], "liveness": ["subprocess"]}
    assert forbidden(path.read_text()) == own.get(path.stem, [])


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "import os, dill.x",
        "from pickle import loads",
        "import subprocess as s",
        "from os import system",
        "from torch import load",
        "eval(text)",
        "exec(text)",
        "os.system(text)",
        "os.execvp(a, b)",
        "run(text, shell=True)",
        "yaml.load(text, Loader=yaml.SafeLoader)",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "torch.load(path, weights_only=flag)",
        "torch.hub.load(path)",
        "np.load(path)",
        "read(path, allow_pickle=True)",
        "AutoModel.from_pretrained(x, trust_remote_code=flag)",
        "def f():\n    return [eval(x) for x in y]",
    ],
)
def test_the_search_finds(source):
    assert forbidden(source)


def test_the_search_lets_pass():
    allowed = "torch.load(p, weights_only=True); model.eval(); re.compile(x); yaml.safe_load(t)"
    assert forbidden(allowed) == []
    assert len(SCRIPTS) > 50 and len(RULES) > 5


@pytest.mark.parametrize("path", RULES, ids=lambda path: path.stem)
def test_no_rule_could_run_what_it_is_given(path):
    text = path.read_text()
    words = [token.string for token in tokenize.generate_tokens(io.StringIO(text).readline)]
    called = {word for word, after in zip(words, words[1:], strict=False) if after in "(:"}
    directives = {"run", "script", "notebook", "wrapper", "template_engine"}
    assert not called & {"eval", "exec", "compile", "system", "popen"}
    assert not called & directives
    for block in re.findall(r'shell:\s+r"""(.*?)"""', text, re.DOTALL):
        # Numbers: a wildcard of digits, and what the schema holds to be numbers.
        plain = set(re.findall(r"\{([^}]*)\}", block)) - {"wildcards.rank", "threads"}
        plain -= {"params.world_size"}
        assert all(name.endswith(":q") for name in plain)
    assert text.count("shell:") == len(re.findall(r'shell:\s+r"""', text))


# The configuration


def leaves(schema: dict[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The keys that take a value, as paths."""
    for name, node in schema.get("properties", {}).items():
        if "properties" in node:
            yield from leaves(node, (*path, name))
        elif node.get("type") != "object":
            yield (*path, name)


# Of these any text is a path. Of `fasta` too, but alone it is refused, without a model.
PATHS = {("reuse",), ("exports", "annotations")}
LEAVES = [path for path in leaves(load_schema()) if path not in PATHS]


@pytest.mark.parametrize("path", LEAVES, ids=".".join)
def test_no_setting_takes_a_command(path):
    config: Any = PAYLOAD
    for name in reversed(path):
        config = {name: config}
    with pytest.raises(ConfigError, match=re.escape(".".join(path))):
        complete(config)


@pytest.mark.parametrize(
    "text",
    [
        '__use_yte__: true\ndatasets: ?__import__("os").system("touch PWNED")',
        "__use_yte__: true",
        "<<: {__use_yte__: true}",
        "datasets: !!python/object/apply:os.system [touch PWNED]",
        "datasets: !!python/name:os.system",
        "!!python/object/new:os.system [touch PWNED]",
    ],
)
def test_a_configuration_that_is_a_program_is_refused_before_snakemake_reads_it(
    text, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    Path("config.yaml").write_text(text)
    with pytest.raises(ConfigError, match=r"^config\.yaml"):
        check_yaml(Path("config.yaml"))
    assert [path.name for path in tmp_path.iterdir()] == ["config.yaml"]


# Models


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """A working folder with a good model in it."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(BUNDLED, "esm")
    return tmp_path


class Payload:
    def __reduce__(self) -> Any:
        return os.system, ("touch PWNED",)


def bare_pickle(path: Path) -> None:
    path.write_bytes(pickle.dumps(Payload()))


def old_pickle(path: Path) -> None:
    torch.save({"model": Payload()}, path, _use_new_zipfile_serialization=False)


def tar_of_old(path: Path) -> None:
    with tarfile.open(path, "w") as archive:
        for name in ("../PWNED", "storages", "tensors", "pickle"):
            content = pickle.dumps(Payload())
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))


@pytest.mark.filterwarnings("ignore")
def torchscript(path: Path) -> None:
    torch.jit.script(torch.nn.Linear(2, 2)).save(path)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("make", [bare_pickle, old_pickle, tar_of_old, torchscript])
@pytest.mark.parametrize("name", ["m.pt", "esm/pytorch_model.bin", "esm/model.safetensors"])
def test_a_payload_in_any_form_of_weights_is_refused_and_not_run(make, name, folder):
    os.remove("esm/model.safetensors")
    make(Path(name))
    with pytest.raises(ModelError, match=f"^{name}: cannot be (loaded as weights only|read)"):
        prepare_model("mine", name if name == "m.pt" else "esm", OUTPUT, LOGGER)
    assert not Path("PWNED").exists() and not Path("../PWNED").exists()
    assert not Path("resources").exists()


def test_code_beside_a_model_is_not_run(folder):
    prepare_model("mine", "esm", OUTPUT, LOGGER)
    before = json.loads(OUTPUT.read_text())
    classes = {"AutoModel": "evil.Evil", "AutoConfig": "evil.Evil", "AutoTokenizer": ["evil.Evil"]}
    code = {"auto_map": classes, "custom_pipelines": {"x": {"impl": "evil.E"}}}
    config = json.loads(Path("esm/config.json").read_text()) | code | {"trust_remote_code": True}
    Path("esm/config.json").write_text(json.dumps(config))
    for name in ("evil.py", "__init__.py", "sitecustomize.py", "torch.py", "json.py"):
        Path("esm", name).write_text("open('PWNED', 'w')")
    prepare_model("mine", "esm", OUTPUT, LOGGER)
    assert json.loads(OUTPUT.read_text()) == before
    assert "evil" not in sys.modules and not Path("PWNED").exists()


@pytest.mark.parametrize("part", ["", ".", "..", "a/b", "..\\x", "/etc/passwd", "x\0", 3, None, []])
def test_an_index_of_weights_names_files_beside_it_alone(part, folder):
    index = Path("esm/model.safetensors.index.json")
    index.write_text(json.dumps({"weight_map": {"x": part}}))
    with pytest.raises(ModelError, match="is not the name of a file beside it"):
        list_weight_files(index)


def test_converted_weights_replace_a_link_and_never_what_it_leads_to(folder):
    torch.save(load_file("esm/model.safetensors"), "esm/pytorch_model.bin")
    os.remove("esm/model.safetensors")
    victim, link = Path("victim"), Path("resources/models/mine/model.safetensors")
    victim.write_text("mine")
    link.parent.mkdir(parents=True)
    for path in (link, OUTPUT):
        path.symlink_to(victim.absolute())
    prepare_model("mine", "esm", OUTPUT, LOGGER)
    assert victim.read_text() == "mine"
    assert not link.is_symlink() and not OUTPUT.is_symlink()


# Checkpoints


def block_with_token_rows(folder: Path, **changes: Any) -> Path:
    """A block whose checksums are right; `changes` are of what it says of its token rows."""
    spool = ResidueSpool(folder)
    spool.add(0, np.ones((4, 2), np.float32))
    sealed = replace(spool.seal([0]), **changes)
    digests, rows = np.zeros((1, 16), np.uint8), np.ones((1, 2), np.float32)
    return write_next_block(folder, digests, rows, digests[:, 0], batches=1, residues=sealed)


@pytest.mark.parametrize("dtype", ["O", "object", "V8,O", "int64", "U4", "float64", "x", ""])
def test_token_rows_are_numbers_whatever_a_block_says(dtype, tmp_path):
    """An array of objects on disk would be read as addresses of memory."""
    block = block_with_token_rows(tmp_path, dtype=dtype)
    with pytest.raises(CheckpointError, match="damaged checkpoint block .its token rows are"):
        read_block(block)


@pytest.mark.parametrize("counts", [np.array([-4]), np.array([4.0]), np.array([4], np.uint8)])
def test_token_rows_are_counted_in_whole_numbers(counts, tmp_path):
    block = block_with_token_rows(tmp_path, counts=counts)
    with pytest.raises(CheckpointError, match="damaged checkpoint block"):
        read_block(block)


def sealed(header: dict[str, Any], size: int | None = None, data: bytes = b"") -> bytes:
    """A block of this header, with the checksum that a stranger can compute as well as we."""
    own = {"checksum": blocks.BLANK, "first": "0", "last": "0", "format_version": "1"}
    text = json.dumps({"__metadata__": own} | header, separators=(",", ":")).encode()
    length = len(text) if size is None else size
    content = length.to_bytes(8, "little") + text + data
    checksum = hashlib.blake2b(content, digest_size=16).hexdigest().encode()
    return content.replace(blocks.BLANK.encode(), checksum, 1)


def tensor(dtype: str, shape: list[int], end: int) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [0, end]}


@pytest.mark.parametrize(
    "content",
    [
        sealed({}, size=2**63 - 1),
        sealed({}, size=2**40),
        sealed({}, size=0),
        sealed({"rows": tensor("F32", [2**40, 2**20], 2**62)}),
        sealed({"rows": tensor("F32", [2**62, 2**62], 0)}),
        sealed({"rows": tensor("F32", [1, 1], 4)}, data=b"1234"),
        sealed({"rows": tensor("F32", [1, 1], 4), "other": tensor("F32", [0], 0)}, data=b"1234"),
        sealed({"__metadata__": {"checksum": blocks.BLANK}}),
    ],
)
def test_a_block_that_claims_what_it_has_not_is_set_aside(content, tmp_path):
    (tmp_path / "batch_00000.safetensors").write_bytes(content)
    ids, rows = read_finished(tmp_path, LOGGER)
    assert (list(ids), rows) == ([], None)
    assert [path.name for path in tmp_path.iterdir()] == ["batch_00000.safetensors.damaged"]


def test_what_lies_around_in_a_checkpoint_folder_is_not_read(folder):
    names = ["batch_00000.npy", "batch_00000.pkl", "batch_00000.pt", "manifest.pkl", "x.npz"]
    for name in names:
        Path(name).write_bytes(pickle.dumps(Payload()))
    # By the right name, too, a pickle is only bytes.
    shutil.copy(names[1], "batch_00003.safetensors")
    assert list_blocks(folder) == [folder / "batch_00003.safetensors"]
    assert read_finished(folder, LOGGER)[1] is None
    assert not Path("PWNED").exists()


@pytest.mark.parametrize("act", [lambda folder: read_finished(folder, LOGGER), clear])
def test_a_link_in_a_checkpoint_folder_is_moved_or_removed_itself(
    act: Callable[[Path], Any], tmp_path
):
    victim, folder = tmp_path / "victim", tmp_path / "shard_0"
    folder.mkdir()
    victim.write_text("mine")
    for name in ("batch_00000.safetensors", "residues_0.raw", "shard_0.h5"):
        (folder / name).symlink_to(victim)
    act(folder)
    assert victim.read_text() == "mine" and not victim.is_symlink()
    assert not (folder / "batch_00000.safetensors").is_symlink()


# The environment


def test_what_names_a_gpu_is_a_text(tmp_path):
    def lease(visible: str) -> dict[str, str]:
        environment = EnvConfig.from_environ({"CUDA_VISIBLE_DEVICES": visible})
        how = {"leave_if_asked": lambda: None, "logger": LOGGER, "dev": tmp_path, "proc": tmp_path}
        with lease_device("cuda", 0, environment, **how) as variables:
            return variables

    assert lease(PAYLOAD)["CUDA_VISIBLE_DEVICES"] == PAYLOAD
    with pytest.raises(DeviceError):
        lease(f"{PAYLOAD},../../0")
    assert list(tmp_path.iterdir()) == []
