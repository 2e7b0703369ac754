"""A case: what its seed draws, the tree that it disturbs, and the words that tell of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from interposed import Sort, faulty
from settle import Settling
from stages import Ended, Tree
from undisturbed import Undisturbed, watched

# Embedding takes nearly all the time of a run, and so do faults find it.
DRAWN_STAGES = (*("embed_0", "embed_1") * 3, "index", "split", "merge", "merge")


@dataclass
class Scene:
    """One case; `told` gathers what was done, so that a reader can follow it."""

    random: Random
    undisturbed: Undisturbed
    folder: Path
    told: list[str] = field(default_factory=list)

    def tell(self, *words: object) -> None:
        self.told.append(" ".join(map(str, words)))

    def open(self, point: str) -> Tree:
        """A copy of the tree before a stage, or at another point of the undisturbed run."""
        self.tell(point, "with token rows" if self.undisturbed.per_residue else "")
        return self.undisturbed.open(point, self.folder)

    def draw_stage(self, stages: Sequence[str] = DRAWN_STAGES) -> str:
        """One of the stages that the undisturbed run went through."""
        return self.random.choice([s for s in stages if s in self.undisturbed.calls])

    def draw_moment(self, stage: str) -> float:
        """An instant of a stage, in seconds from its start."""
        return self.random.uniform(0.05, 1.05) * self.undisturbed.seconds[stage]

    def draw_call(self, stage: str, kinds: Sequence[str]) -> tuple[Sort, int]:
        """A sort of calls of a stage, and the number of one; each sort is as likely as any other.

        The many writes of large files would else hide the few renames of small ones.
        """
        calls = self.undisturbed.calls[stage]
        sort = self.random.choice(sorted(sort for sort in calls if sort.kind in kinds))
        return sort, self.random.randint(1, calls[sort])

    def fault(self, tree: Tree, stage: str, kinds: Sequence[str], action: str, **more: object):
        """The environment in which one call of a stage is disturbed."""
        sort, number = self.draw_call(stage, kinds)
        self.tell(f"{action} at call {number} of", *sort, *(f"{k}={v}" for k, v in more.items()))
        if self.random.random() < 0.5:
            # Else each worker that takes another's place meets the same fault.
            self.tell("once")
            more["once"] = tree.folder / f"once_{len(self.told)}"
        settings = {"role": sort.role, "calls": f",{sort.kind},", "folder": sort.folder}
        settings |= {"name": sort.name, "at": number, "action": action}
        return watched(faulty(self.undisturbed.library, tree.folder, **settings, **more))

    def settle(
        self,
        tree: Tree,
        stage: str,
        ended: Sequence[Ended] = (),
        *,
        signalled: bool = False,
        **settings: object,
    ) -> str:
        """Judge the disturbed runs, then run from `stage` to the end and compare."""
        settling = Settling(tree, self.undisturbed, **settings)  # type: ignore[arg-type]
        for one in ended:
            self.tell(f"exit code {one.code}: {one.last_line[:300]}")
            settling.check_words(one, signalled=signalled)
        if ended and self.random.random() < 0.5:
            self.tell("its output is removed")
            tree.remove_outputs(stage)
        try:
            return settling.settle(stage)
        finally:
            self.told += [f"followed: {message[:300]}" for message in settling.followed]
