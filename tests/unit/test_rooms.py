"""The library's rooms, and which of them may import which."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import seqembed

LIBRARY = Path(seqembed.__file__).parent
# A module imports from its own room, and from what stands before it.
ORDER = (
    *("errors", "flags", "environment", "versions", "storage", "machine", "kernels", "fasta"),
    *("models.source", "models.vocabularies", "models.architectures", "models.families"),
    *("models.known", "models.names"),
    *("models.encoders", "models.prepared", "models.weights", "models", "checks", "settings"),
    *("index", "results", "checkpoints", "inference", "worker_logging", "worker"),
    *("gpu_worker", "supervisor", "verify", "reading", "export", "run_messages", "look", "report"),
    "command_line",
)
LOOSE_FILES = 10


def find_room(module: str) -> int:
    """The place in ORDER of a module, by its name within the library."""
    fitting = [room for room in ORDER if f"{module}.".startswith(f"{room}.")]
    return ORDER.index(max(fitting, key=len))


def list_imports(path: Path) -> Iterator[str]:
    """The modules of the library that a file imports, wherever it does so."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: import by the whole name"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            names = [name if is_module(name) else str(node.module) for name in names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        yield from (name.removeprefix("seqembed.") for name in names if "seqembed." in name)


def is_module(name: str) -> bool:
    path = LIBRARY.parent / name.replace(".", "/")
    return path.with_suffix(".py").exists() or path.is_dir()


def list_upward(library: Path) -> list[str]:
    """The imports that lead to a later room."""
    found = []
    for path in sorted(library.rglob("*.py")):
        module = ".".join(path.relative_to(library).with_suffix("").parts).removesuffix(".__init__")
        if module != "__init__":
            imports = list_imports(path)
            upward = (name for name in imports if find_room(name) > find_room(module))
            found += [f"{module} imports {name}" for name in upward]
    return found


def test_no_module_imports_from_a_later_room():
    assert list_upward(LIBRARY) == []


def test_an_upward_import_is_found(tmp_path):
    (tmp_path / "fasta").mkdir()
    (tmp_path / "fasta/reader.py").write_text("from seqembed.models.known import KNOWN\n")
    assert list_upward(tmp_path) == ["fasta.reader imports models.known"]


def test_few_files_lie_outside_of_rooms():
    assert len(list(LIBRARY.glob("*.py"))) <= LOOSE_FILES


def test_a_module_without_a_room_is_an_error():
    with pytest.raises(ValueError, match="empty"):
        find_room("utils")
