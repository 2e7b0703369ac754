"""The interposed library: faults at the k-th call of a program that changes files in a folder."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

SOURCE = Path(__file__).with_name("interpose.c")
CALLS = ("create", "write", "sync", "truncate", "rename", "link", "unlink", "mkdir")


def find_compiler() -> str | None:
    return shutil.which(os.environ.get("CC", "cc"))


def compile_library(folder: Path) -> Path:
    """Compile it into `folder`; SystemExit where no compiler is there."""
    compiler = find_compiler()
    if compiler is None:
        sys.exit("a C compiler is needed, as `cc` or as CC says")
    path = folder / "interpose.so"
    flags = ["-O2", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC"]
    subprocess.run([compiler, *flags, "-o", path, SOURCE, "-ldl"], check=True)
    return path


@dataclass(frozen=True)
class Call:
    """A call that changed `path`; `source` is where a rename or a link came from."""

    role: str
    kind: str
    path: Path
    source: str


def read_trace(path: Path) -> list[Call]:
    """All counted calls, in their order."""
    if not path.exists():
        return []
    lines = [line.split("\t") for line in path.read_text().splitlines()]
    return [Call(role, kind, Path(place), source) for role, kind, place, source in lines]


def count_calls(calls: list[Call]) -> Counter[tuple[str, str]]:
    """How many of each (role, kind)."""
    return Counter((call.role, call.kind) for call in calls)


def faulty(library: Path, root: Path, **settings: str | int | Path) -> dict[str, str]:
    """The environment that loads the library; settings are those of interpose.c, lower case."""
    named = {f"FAULT_{name.upper()}": str(value) for name, value in settings.items()}
    return {"LD_PRELOAD": str(library), "FAULT_ROOT": str(root.absolute()), **named}
