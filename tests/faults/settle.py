"""What comes after a fault: the stages are run again as Snakemake would, and the end is judged."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from driver import Outcome
from safetensors.numpy import load_file
from stages import OUTPUTS, RESULTS, STAGES, Ended, Tree, copy_tree, remove
from undisturbed import Undisturbed, differences, list_files, read_result

SAME, ERROR = "same bytes", "one clear error"
# Another machine can do it: one with a root user who may mount.
LEFT_OUT = "left out"
GOOD = (SAME, ERROR, LEFT_OUT)
# More tries than any message could ask for.
TRIES = 5
PAUSE_SECONDS = 1.0
BAD_WORDS = ("Traceback (most recent call last)", "Exception ignored", "--- Logging error ---")
ADVICE = re.compile(r"run (it )?again|remove|put (it|the old file) back|see that|check|set `")


class Judged(Exception):
    """The case is decided: `kind` of a failure, and what there is to say of it."""

    def __init__(self, kind: str, note: str) -> None:
        self.kind, self.note = kind, note
        super().__init__(f"{kind}: {note}")


@dataclass
class Settling:
    """Runs a disturbed tree to its end.

    expected: what else may come out, its names alone, where the input was edited.
    may_be_damaged: files under their final names are not whole, as the fault was just that.
    """

    tree: Tree
    undisturbed: Undisturbed
    may_be_damaged: bool = False
    expected: dict | None = None
    followed: list[str] = field(default_factory=list)
    source: Path | None = None

    def settle(self, stage: str) -> str:
        """Run from `stage` to the end, doing what messages say; return SAME or ERROR."""
        pending = list(STAGES[STAGES.index(stage) :])
        for _ in range(TRIES + len(STAGES)):
            pending = self._with_lost(pending)
            if not pending:
                break
            held = self._held(pending[0])
            ended = self.tree.run(pending[0])
            self.check_words(ended)
            if ended.code == 0:
                self._check_kept(ended, held)
                pending.pop(0)
                continue
            back = self._follow(ended)
            pending = [s for s in STAGES if s in pending or STAGES.index(s) >= STAGES.index(back)]
        else:
            raise Judged("failed", f"{ended.last_line}; still after {self.followed}")
        self._compare()
        return ERROR if self.followed else SAME

    def _with_lost(self, pending: list[str]) -> list[str]:
        """As Snakemake: a stage whose output is gone is due, and so is all that follows."""
        lost = [stage for stage in STAGES if not self.tree.is_done(stage) and stage not in pending]
        first = min((STAGES.index(stage) for stage in [*lost, *pending]), default=len(STAGES))
        return [s for s in STAGES if s in pending or (lost and STAGES.index(s) >= first)]

    def check_words(self, ended: Ended, *, signalled: bool = False) -> None:
        """Raise Judged unless a stage ended in time, alone, and said what it had to."""
        if ended.hung:
            raise Judged("hang", f"{ended.stage} did not end: {ended.last_line}")
        if ended.left:
            raise Judged("left behind", f"{ended.left} processes outlived {ended.stage}")
        found = [word for word in BAD_WORDS if word in ended.said]
        if found and not (signalled and _in_imports(ended)):
            raise Judged("traceback", f"{ended.stage}: {found[0]}: {ended.said[-1500:]}")
        if ended.code > 0 and not signalled and not is_clear(ended.last_line):
            raise Judged("unclear", f"{ended.stage}, exit code {ended.code}: {ended.last_line!r}")
        if not self.may_be_damaged and re.search("damaged|not used", ended.said + self._log(ended)):
            raise Judged("torn", f"{ended.stage}: {ended.said} {self._log(ended)[-600:]}")

    def _log(self, ended: Ended) -> str:
        path = self.tree.folder / f"logs/{ended.stage}.log"
        lines = path.read_text(errors="replace").splitlines() if path.exists() else []
        return "\n".join(line for line in lines if " WARNING " in line)

    def _held(self, stage: str) -> set[bytes]:
        if not stage.startswith("embed") or self.may_be_damaged:
            return set()
        return finished(self.tree, int(stage[-1]))

    def _check_kept(self, ended: Ended, held: Iterable[bytes]) -> None:
        before = sum(old for _, old in Outcome(ended.code, ended.said).embedded.values())
        if before < (count := len(set(held))):
            raise Judged("lost", f"{ended.stage}: {count} were finished, {before} taken over")

    def _follow(self, ended: Ended) -> str:
        """Do what the message says; return the stage to go on from."""
        message = ended.last_line
        if "put" in message or "prepared" in message:
            self._restore_model()
            self.followed.append(message)
            return "prepare"
        target = advised(self.tree.folder, message)
        if target is None:
            # Another worker may be at work, or the input was edited.
            time.sleep(PAUSE_SECONDS)
            if "indexed" in message:
                self.followed.append(message)
                return "index"
            return ended.stage
        self.followed.append(message)
        remove(target)
        return producer(self.tree, target, ended.stage)

    def _restore_model(self) -> None:
        remove(self.tree.folder / "model")
        copy_tree(self.undisturbed.folder / "prepare/model", self.tree.folder / "model")
        self.tree.remove_outputs("prepare")

    def _compare(self) -> None:
        found, undisturbed = read_result(self.tree.results), read_result(self.undisturbed.result)
        wrong = differences(found, undisturbed)
        if self.expected is not None and wrong:
            wrong = differences({name: found[name] for name in self.expected}, self.expected)
        if wrong:
            raise Judged("wrong", f"{', '.join(wrong)} differ; {self.followed}")
        if extra := self._litter():
            raise Judged("litter", ", ".join(sorted(extra)))

    def _litter(self) -> set[str]:
        """What no undisturbed run leaves; of edited input the names of some files are others."""
        temporary = {f"tmp/{name}" for name in list_files(self.tree.folder / "tmp")}
        return temporary | (list_files(self.tree.results) - self.undisturbed.files())


def _in_imports(ended: Ended) -> bool:
    """Whether Ctrl-C came before a line of the program's own had run: Python tells of that."""
    return ended.last_line == "KeyboardInterrupt" and ", in main" not in ended.said


def is_clear(line: str) -> bool:
    """Whether a program's last line tells what is wrong and what to do."""
    return bool(re.match(r"\w+( work \d)?: ", line)) and bool(ADVICE.search(line))


def advised(folder: Path, message: str) -> Path | None:
    """The path that a message says to remove."""
    match = re.search(r"remove (\S+)", message)
    if not match:
        return None
    words = re.findall(r"[^\s'\"(),;:]+", message.partition(": ")[2])
    named = [match[1].rstrip(",;.:)"), *(word for word in words if "/" in word)]
    return next((folder / w for w in named if w != "it" and (folder / w).exists()), None)


def producer(tree: Tree, path: Path, otherwise: str) -> str:
    """The stage that makes a path; Snakemake misses no file of a folder that a rule declares."""
    name = str(path.relative_to(tree.folder))
    made = {output: stage for stage, outputs in OUTPUTS.items() for output in outputs}
    return (made | {f"{RESULTS}/shards": "embed_0"}).get(name, otherwise)


def finished(tree: Tree, rank: int) -> set[bytes]:
    """The digests of all whole blocks of a rank, read without the product's own code."""
    found: set[bytes] = set()
    for path in tree.results.glob(f"checkpoints/*/shard_{rank}/batch_*.safetensors"):
        digests = load_file(path)["digests"]
        found |= {row.tobytes() for row in np.ascontiguousarray(digests)}
    return found
