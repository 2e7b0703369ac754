"""What comes after a fault: the stages are run again as Snakemake would, and the end is judged."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

import h5py
import numpy as np
from driver import Outcome
from safetensors.numpy import load_file
from stages import RESULTS, Ended, Tree, copy_tree, list_outputs, remove
from undisturbed import Undisturbed, differences, list_files, read_result

from seqembed.worker.heartbeat import NAME, read_heartbeat

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
    to_compute: how many sequences have to be computed now; None: any number.
    beside_a_worker: of another split, which writes to its own checkpoint, and a shard.
    """

    tree: Tree
    undisturbed: Undisturbed
    may_be_damaged: bool = False
    expected: dict | None = None
    followed: list[str] = field(default_factory=list)
    to_compute: int | None = None
    beside_a_worker: bool = False
    computed: int = 0

    def settle(self, stage: str) -> str:
        """Run from `stage` to the end, doing what messages say; return SAME or ERROR."""
        stages = self.tree.stages
        pending = list(stages[stages.index(stage) :])
        for _ in range(TRIES + len(stages)):
            pending = self._with_lost(pending)
            if not pending:
                break
            held = self._held(pending[0])
            ended = self.tree.run(pending[0])
            self.check_words(ended)
            if ended.code == 0:
                self._check_kept(ended, held)
                self.computed += Outcome(ended.code, ended.said).computed
                pending.pop(0)
                continue
            back = self._follow(ended)
            pending = [s for s in stages if s in pending or stages.index(s) >= stages.index(back)]
        else:
            raise Judged("failed", f"{ended.last_line}; still after {self.followed}")
        self._compare()
        if self.to_compute not in (None, self.computed):
            raise Judged("counts", f"{self.computed} were computed, not {self.to_compute}")
        return ERROR if self.followed else SAME

    def _with_lost(self, pending: list[str]) -> list[str]:
        """As Snakemake: a stage whose output is gone is due, and so is all that follows.

        Once the result is there, nobody needs what the merge removed.
        """
        if not pending and self.tree.is_done("merge"):
            return []
        stages = self.tree.stages
        lost = [stage for stage in stages if not self.tree.is_done(stage) and stage not in pending]
        first = min((stages.index(stage) for stage in [*lost, *pending]), default=len(stages))
        return [s for s in stages if s in pending or (lost and stages.index(s) >= first)]

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
        if torn := [path for path in self._heartbeats() if read_heartbeat(path.parent) is None]:
            raise Judged("torn", f"{ended.stage}: {torn}")
        if not self.may_be_damaged and re.search("damaged|not used", ended.said + self._log(ended)):
            raise Judged("torn", f"{ended.stage}: {ended.said} {self._log(ended)[-600:]}")

    def _heartbeats(self) -> list[Path]:
        """Those that killed workers left; none if the fault damages what was not synced."""
        found = self.tree.folder.glob(f"results/*/checkpoints/*/*/{NAME}")
        return [] if self.may_be_damaged else [*found]

    def _log(self, ended: Ended) -> str:
        path = self.tree.folder / f"logs/{ended.stage}.log"
        lines = path.read_text(errors="replace").splitlines() if path.exists() else []
        return "\n".join(line for line in lines if " WARNING " in line)

    def _held(self, stage: str) -> set[bytes]:
        if not stage.startswith("embed") or self.may_be_damaged or self.tree.shards != 2:
            return set()
        return finished(self.tree, int(stage[-1]))

    def _check_kept(self, ended: Ended, held: Iterable[bytes]) -> None:
        before = sum(old for _, old in Outcome(ended.code, ended.said).embedded.values())
        if before < (count := len(set(held))):
            raise Judged("lost", f"{ended.stage}: {count} were finished, {before} taken over")

    def _follow(self, ended: Ended) -> str:
        """Do what the message says; return the stage to go on from."""
        message = ended.last_line
        if "reuse: " in message and "names no file" in message:
            self.followed.append(message)
            self.tree = replace(self.tree, reuse=())
            return ended.stage
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
        shards = {f"index/shard_{rank}.parquet" for rank in range(self.tree.shards)}
        extra = list_files(self.tree.results) - self.undisturbed.files() - shards
        if self.beside_a_worker:
            extra = {name for name in extra if not name.startswith(("checkpoints/", "shards/"))}
        return temporary | extra


def _in_imports(ended: Ended) -> bool:
    """Whether Ctrl-C came before a line of the program's own had run: Python tells of that."""
    return ended.last_line == "KeyboardInterrupt" and ", in main" not in ended.said


def is_clear(line: str) -> bool:
    """Whether a program's last line tells what is wrong and what to do."""
    return bool(re.match(r"\w+( work( \d)?)?: ", line)) and bool(ADVICE.search(line))


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
    stages = list_outputs(tree.shards).items()
    made = {output: stage for stage, outputs in stages for output in outputs}
    return (made | {f"{RESULTS}/shards": "embed_0"}).get(name, otherwise)


def finished(tree: Tree, rank: int | str) -> set[bytes]:
    """The digests of all whole blocks of a rank, `*` for all, read without the product's code."""
    paths = tree.results.glob(f"checkpoints/*/shard_{rank}/batch_*.safetensors")
    return set().union(*(_as_bytes(load_file(path)["digests"]) for path in paths))


def held(tree: Tree) -> set[bytes]:
    """The digests of all rows that need not be computed: in blocks, shards, results."""
    found = finished(tree, "*")
    shards = tree.results.glob("checkpoints/*/shard_*/shard_*.h5")
    results = [*tree.results.glob("store/*.h5"), *(tree.folder / name for name in tree.reuse)]
    for path in [*shards, *results]:
        found |= read_digests(path)
    return found


def read_digests(path: Path) -> set[bytes]:
    with h5py.File(path, "r", locking=False) as file:
        return _as_bytes(file["digests"][:])


def _as_bytes(digests: np.ndarray) -> set[bytes]:
    return {row.tobytes() for row in np.ascontiguousarray(digests)}
