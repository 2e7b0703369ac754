"""Faults through the real workflow: Snakemake, its jobs, their workers, and what lies on disk."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random

from crash_rest import WAYS
from crash_reuse import COUNTS
from driver import Driver, Outcome, Place, copy_checkout
from interposed import faulty
from settle import ERROR, SAME, Judged, advised
from stages import OUTPUTS, RESULTS, REUSE, copy_tree, remove
from undisturbed import AFTER, Undisturbed, differences, list_files, read_result

# Of Snakemake itself, from its start to its end.
DRIVER_SECONDS = 6.0
SNAKEMAKES_OWN = {"index/.snakemake_timestamp"}
TRIES = 6
# Calls of one process that are surely made, few enough that they come in most.
CALLS: Mapping[str, Mapping[str, int]] = {
    "worker": {"write": 90, "sync": 20, "link": 9, "rename": 4, "unlink": 10, "create": 8},
    "entry": {"write": 50, "sync": 3, "rename": 2, "unlink": 20, "create": 2},
    "driver": {"write": 20, "create": 10, "unlink": 10, "rename": 3, "mkdir": 3},
}


@dataclass(frozen=True)
class WorkflowWorld:
    """`fresh`: the place before a run, its model prepared; `stages`: what has to come out.

    seconds: about what a run takes.
    """

    fresh: Place
    stages: Undisturbed
    seconds: float


def prepare_workflow(folder: Path, stages: Undisturbed, reuse: Undisturbed) -> WorkflowWorld:
    """A place whose run has to give the bytes of the undisturbed stages, and a file to reuse."""
    fresh = Place(copy_checkout(folder / "checkout"), folder / "fresh")
    fresh.folder.mkdir()
    for name in ("model", "input.faa", "resources"):
        copy_tree(stages.folder / AFTER / name, fresh.folder / name)
    (fresh.folder / OUTPUTS["prepare"][0]).touch()
    shutil.copytree((reuse.folder / AFTER / REUSE).parent, (fresh.folder / REUSE).parent)
    configure(fresh, stages)
    return WorkflowWorld(fresh, stages, DRIVER_SECONDS + sum(stages.seconds.values()))


def configure(place: Place, stages: Undisturbed, shards: int = 2, **changes: object) -> None:
    """changes: of the dataset's settings."""
    place.configure(
        datasets={"work": {"fasta": "input.faa", "model": "demo"} | changes},
        models={"demo": "model"},
        shards=shards,
        device="cpu",
        embedding={
            "long_sequences": "window",
            "max_length": 100,
            "invalid_residues": "skip",
            "per_residue": stages.per_residue,
        },
        execution={"token_budget": 700, "checkpoint": {"sequences": 9, "seconds": 300}},
    )


@dataclass
class WorkflowScene:
    """One case through the workflow; `told` gathers what was done."""

    random: Random
    world: WorkflowWorld
    folder: Path
    told: list[str] = field(default_factory=list)

    def tell(self, *words: object) -> None:
        self.told.append(" ".join(map(str, words)))

    def open(self) -> Place:
        return self.world.fresh.copy_to(self.folder)

    def draw_moment(self) -> float:
        return self.random.uniform(0.1, 1.0) * self.world.seconds

    def finish(self, place: Place) -> str:
        """Run again, doing what messages say, until all is done; compare."""
        followed = 0
        for _ in range(TRIES):
            unlock(place)
            outcome = run_to_end(place)
            if outcome.code == 0:
                self._compare(place)
                return ERROR if followed else SAME
            self.tell("again:", *errors(outcome))
            followed += self._follow(place, outcome)
        raise Judged("failed", outcome.text[-1500:])

    def _follow(self, place: Place, outcome: Outcome) -> int:
        if "Traceback" in outcome.text or "bug in seqembed" in outcome.text:
            raise Judged("traceback", outcome.text[-3000:])
        for line in errors(outcome):
            if target := advised(place.folder, line):
                self.tell("removed", target.relative_to(place.folder))
                remove(target)
                return 1
        return 0

    def _compare(self, place: Place) -> None:
        found, stages = place.folder / RESULTS, self.world.stages
        wrong = differences(read_result(found), read_result(stages.result))
        if wrong:
            raise Judged("wrong", ", ".join(wrong))
        shards = {f"index/shard_{rank}.parquet" for rank in range(max(COUNTS))}
        if extra := list_files(found) - stages.files() - SNAKEMAKES_OWN - shards:
            raise Judged("litter", ", ".join(sorted(extra)))


def unlock(place: Place) -> None:
    """Snakemake's own lock outlives its driver."""
    if any(place.folder.glob(".snakemake/locks/*")):
        place.run("--unlock")


def run_to_end(place: Place) -> Outcome:
    try:
        with place.start(cores=1) as driver:
            text = driver.communicate(timeout=240)[0]
    except subprocess.TimeoutExpired as expired:
        raise Judged("hang", str(expired)) from expired
    return Outcome(driver.returncode, text)


def errors(outcome: Outcome) -> list[str]:
    """What our programs said of their failure, each once."""
    lines = outcome.said_by("index", "split", "embed_shard", "merge", "prepare_model")
    told = r" are in |: [0-9,]+ (sequences?|distinct) of | left out: |reused$|distinct\), "
    told += "|without an embedding$"
    return sorted({line for line in lines if not re.search(told, line)})


def kill_someone(scene: WorkflowScene) -> str:
    """SIGKILL of the driver, a worker, a supervisor, or all, at a random instant."""
    place, moment = scene.open(), scene.draw_moment()
    whom = scene.random.choice(("driver", "worker", "supervisor", "all"))
    scene.tell(f"{whom} killed after {moment:.1f} s")
    with place.start(cores=1) as driver:
        _wait(driver, moment)
        _kill(driver, whom, signal.SIGKILL)
        if whom in ("worker", "supervisor"):
            _end(driver, scene)
        # Orphans of a killed driver may still write while the next run begins.
        return scene.finish(place)


def _wait(driver: Driver, seconds: float) -> None:
    with suppress(subprocess.TimeoutExpired):
        driver.wait(seconds)


def _kill(driver: Driver, whom: str, number: signal.Signals) -> None:
    words = {"worker": b"spawn_main", "supervisor": b"embed_shard.py"}
    victims = [driver.pid] if whom == "driver" else driver.alive()
    for pid in victims:
        with suppress(OSError):
            if words.get(whom, b"") in Path(f"/proc/{pid}/cmdline").read_bytes():
                os.kill(pid, number)


def _end(driver: Driver, scene: WorkflowScene) -> None:
    try:
        text = driver.communicate(timeout=120)[0]
        driver.wait_for_end(seconds=15)
    except (subprocess.TimeoutExpired, AssertionError) as error:
        raise Judged("hang", str(error)) from error
    scene.tell(f"exit code {driver.returncode}:", *errors(Outcome(driver.returncode, text)))
    if "bug in seqembed" in text:
        raise Judged("traceback", text[-3000:])


def ask_to_stop(scene: WorkflowScene) -> str:
    """SIGINT or SIGTERM, once or twice, to the group or to the driver."""
    place, moment = scene.open(), scene.draw_moment()
    number = scene.random.choice((signal.SIGINT, signal.SIGTERM))
    whom, times = scene.random.choice(("driver", "all")), scene.random.choice((1, 2))
    scene.tell(f"{number.name} {times}x to {whom} after {moment:.1f} s")
    with place.start(cores=1) as driver:
        _wait(driver, moment)
        for _ in range(times):
            _kill(driver, whom, number)
            time.sleep(0.1)
        _end(driver, scene)
    return scene.finish(place)


def disturb_a_call(scene: WorkflowScene) -> str:
    """A call of a worker, an entry or the driver: killed, torn, or answered by an error."""
    place, random = scene.open(), scene.random
    role = random.choice(sorted(CALLS))
    kind = random.choice(sorted(CALLS[role]))
    actions: Sequence[str] = ("kill-before", "kill-after")
    if role != "driver":
        actions = (*actions, "fail-once", "fail-on")
    root = place.folder / (".snakemake" if role == "driver" else "results")
    settings = {"role": role, "calls": f",{kind},", "at": random.randint(1, CALLS[role][kind])}
    settings |= {"action": random.choice(actions), "errno": random.choice((5, 28))}
    scene.tell(settings)
    disturbed = replace(place, environment=faulty(scene.world.stages.library, root, **settings))
    with disturbed.start(cores=1) as driver:
        _end(driver, scene)
    return scene.finish(place)


def _kill_all(place: Place, moment: float) -> None:
    """Run the workflow, and kill all of its processes at a moment, in seconds."""
    with place.start(cores=1) as driver:
        _wait(driver, moment)
        _kill(driver, "all", signal.SIGKILL)
        driver.wait()


def damage_after_a_kill(scene: WorkflowScene) -> str:
    """All is killed, and one file of the results is damaged."""
    place, moment = scene.open(), scene.draw_moment()
    _kill_all(place, moment)
    results = place.folder / RESULTS
    paths = [path for path in sorted(results.rglob("*")) if _is_ours(path, results)]
    if paths:
        path, way = scene.random.choice(paths), scene.random.choice(WAYS)
        scene.tell(f"{way.__name__} {path.relative_to(place.folder)} after {moment:.1f} s")
        way(path, scene.random)
    return scene.finish(place)


def _is_ours(path: Path, results: Path) -> bool:
    # Of the end's own files Snakemake only knows that they are there; store/ links to one of them.
    ends = [results / name for name in ("embeddings.h5", "quarantine.tsv")]
    if any(end.exists() and path.samefile(end) for end in ends):
        return False
    return path.is_file() and path.stat().st_size > 0


def remove_a_folder(scene: WorkflowScene) -> str:
    """A folder of the results is removed while the workflow runs."""
    place, moment = scene.open(), scene.draw_moment()
    name = scene.random.choice(("checkpoints", "shards", "recipes", "store", "index"))
    scene.tell(f"{name} removed after {moment:.1f} s")
    with place.start(cores=1) as driver:
        _wait(driver, moment)
        shutil.rmtree(place.folder / RESULTS / name, ignore_errors=True)
        _end(driver, scene)
    return scene.finish(place)


def change_shards_and_reuse(scene: WorkflowScene) -> str:
    """All is killed; the run goes on with other shards, and may reuse a file, which may be cut."""
    place, moment = scene.open(), scene.draw_moment()
    _kill_all(place, moment)
    shards, reuse = scene.random.choice(COUNTS), scene.random.random() < 0.6
    scene.tell(f"{shards} shards{', reuse' if reuse else ''} after {moment:.1f} s")
    if reuse and scene.random.random() < 0.3:
        way = scene.random.choice(WAYS)
        scene.tell(f"{way.__name__} {REUSE}")
        way(place.folder / REUSE, scene.random)
    changes = {"reuse": REUSE} if reuse and (place.folder / REUSE).is_file() else {}
    configure(place, scene.world.stages, shards, **changes)
    return scene.finish(place)


KINDS: dict[str, Callable[[WorkflowScene], str]] = {
    "workflow: a call": disturb_a_call,
    "workflow: damage after a kill": damage_after_a_kill,
    "workflow: folder removed": remove_a_folder,
    "workflow: SIGKILL": kill_someone,
    "workflow: SIGTERM, SIGINT": ask_to_stop,
    "workflow: other shards, reuse": change_shards_and_reuse,
}
