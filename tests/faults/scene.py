"""A case: what its seed draws, the tree that it disturbs, and the words that tell of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from interposed import faulty
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
        return self.random.choice(stages)

    def draw_moment(self, stage: str) -> float:
        """An instant of a stage, in seconds from its start."""
        return self.random.uniform(0.05, 1.05) * self.undisturbed.seconds[stage]

    def draw_call(self, stage: str, kinds: Sequence[str]) -> tuple[str, str, int]:
        """(role, kind, number) of a call of a stage; each kind is as likely as any other.

        A kind's many writes would else hide its few renames.
        """
        calls = self.undisturbed.calls[stage]
        role, kind = self.random.choice(sorted(key for key in calls if key[1] in kinds))
        return role, kind, self.random.randint(1, calls[role, kind])

    def fault(self, tree: Tree, stage: str, kinds: Sequence[str], action: str, **more: object):
        """The environment in which one call of a stage is disturbed."""
        role, kind, number = self.draw_call(stage, kinds)
        self.tell(f"{action} at {kind} {number} of {role}", *(f"{k}={v}" for k, v in more.items()))
        if self.random.random() < 0.5:
            # Else each worker that takes another's place meets the same fault.
            self.tell("once")
            more["once"] = tree.folder / f"once_{len(self.told)}"
        settings = {"role": role, "calls": f",{kind},", "at": number, "action": action}
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
