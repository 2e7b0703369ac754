"""The interposed library: faults at the k-th call of a program that changes files in a folder."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

SOURCE = Path(__file__).with_name("interpose.c")
# Folders of files whose names are hashes.
HASHED = ("store", "recipes", "checkpoints")


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


class Sort(NamedTuple):
    """Calls that are alike: of one role and kind, on files of one kind.

    The files are those directly in a folder of this name, their own beginning so but for a dot;
    either may be empty, for any.
    """

    role: str
    kind: str
    folder: str
    name: str


def sort(call: Call) -> Sort:
    if call.path.parent.name in HASHED:
        return Sort(call.role, call.kind, call.path.parent.name, "")
    begin = re.match(r"\.?([a-z]+|#)", call.path.name)
    return Sort(call.role, call.kind, "", begin[1] if begin else "")


def count_calls(calls: list[Call]) -> Counter[Sort]:
    return Counter(map(sort, calls))


def faulty(library: Path, root: Path, **settings: str | int | Path) -> dict[str, str]:
    """The environment that loads the library; settings are those of interpose.c, lower case."""
    named = {f"FAULT_{name.upper()}": str(value) for name, value in settings.items()}
    return {"LD_PRELOAD": str(library), "FAULT_ROOT": str(root.absolute()), **named}
