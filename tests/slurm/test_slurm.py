"""Runs on a real Slurm, through the executor that users have: whatever is done to their jobs, they
end in the bytes of an undisturbed run, and next to nothing is computed twice.
"""

from __future__ import annotations

import os
import re
import signal
import time
from contextlib import suppress

import psutil
import pytest
from driver import read_rows
from projects import (
    RESULT,
    attempts,
    configure,
    edit_profile,
    finish,
    is_computing,
    kept_logs,
    lost,
    read_batch_script,
    submitted,
)

from seqembed.look.liveness import Liveness, list_slurm_jobs
from seqembed.look.shard_status import read_status
from seqembed.machine.devices import find_gpus

NOT_RUN = "NOT RUN: only root can start a Slurm here; run `make test-slurm` as root"
pytestmark = [pytest.mark.timing, pytest.mark.skipif(os.getuid() != 0, reason=NOT_RUN)]
# Of proteins of 300 residues, in a batch of 2,048 tokens.
BATCH = 8
WORK = "rule_embed_shard"
# Slurm's own programs try for nine seconds before they give up.
OUTAGE_SECONDS = 5
# A worker that computes for so long has something to lose.
SECONDS = 3


@pytest.fixture
def ends_well(place, projects):
    """Check that the run succeeded and its rows are right."""

    def check(driver, name="short"):
        text = finish(driver)
        assert read_rows(place.folder / RESULT) == projects[name].rows
        return text

    return check


@pytest.fixture
def computing(place, cluster):
    """Wait until rank 0 has computed for a while; return the number of its job."""

    def wait(driver, attempt=1):
        driver.wait_until(lambda: is_computing(place, attempt), "the worker computes", 120)
        time.sleep(SECONDS)
        (job,) = cluster.running(WORK)
        return job.number

    return wait


@pytest.fixture
def starts_again(place, computing, ends_well):
    """Check that Slurm starts a job again which `stop`, given its number, has stopped."""

    def check(what, stop):
        with submitted(place, "--retries=0") as driver:
            job = computing(driver)
            stop(job)
            assert computing(driver, attempt=2) == job
            ends_well(driver)
        assert len(attempts(place)) == 2
        check_nothing_lost(what, place)

    return check


def check_nothing_lost(what, place):
    """Every worker of rank 0 but the last stopped at a signal, and kept what it had computed."""
    first, *others = attempts(place)[:-1]
    assert " INFO interrupted\n" in first, first
    # A time limit may come in the very seconds in which a job ends whose worker is done.
    for log in others:
        assert re.search("INFO interrupted|sequences are in", log), log
    print(f"{what}: {len(attempts(place))} runs; computed twice after each: {lost(place)}")
    assert max(lost(place)) <= BATCH


def workers(driver):
    """Of each job whose worker is a step of its own: the supervisor's process and environment."""
    found = {}
    for number in driver.alive():
        with suppress(psutil.Error):
            process = psutil.Process(number)
            environment, words = process.environ(), " ".join(process.cmdline())
            if environment.get("SLURM_STEP_ID") == "1" and "embed_shard.py" in words:
                found[environment["SLURM_JOB_ID"]] = process, environment
    return found


def test_four_ranks_use_four_devices_and_no_job_runs_on_the_login_node(place, cluster, projects):
    configure(place, shards=4)
    with submitted(place, "--forceall") as driver:
        driver.wait_until(lambda: len(cluster.running(WORK)) == 4, "four ranks at once", 150)
        jobs = cluster.running(WORK)
        slots = {cluster.details(job.number)["GRES"] for job in jobs}
        assert slots == {f"gpu:fake:1(IDX:{slot})" for slot in range(4)}
        driver.wait_until(lambda: len(workers(driver)) == len(jobs), "workers")
        seen = [environment for _, environment in workers(driver).values()]
        text = finish(driver)
    assert {environment["CUDA_VISIBLE_DEVICES"] for environment in seen} == {"0", "1", "2", "3"}
    assert read_rows(place.folder / RESULT) == projects["short"].rows
    rules = ("prepare_model", "index", "split", "embed_shard", "merge")
    assert set(re.findall(r"slurm_logs/rule_([a-z_]+)/", text)) == set(rules)
    assert re.findall(r"^localrule ([a-z_]+):", text, re.MULTILINE) == ["all"]


@pytest.mark.skipif(bool(find_gpus()), reason="CUDA would take their numbers for real GPUs")
def test_a_worker_that_gets_no_gpu_says_so_and_does_not_use_the_cpu(place):
    """CUDA does not know the devices of this cluster."""
    configure(place, device="auto")
    with submitted(place, "--retries=0") as driver:
        text = finish(driver, ok=False)
    (log,) = attempts(place)
    assert "CUDA_VISIBLE_DEVICES names one device, 0, which is used without a lock" in log
    assert "were finished before" not in log
    (error,) = re.findall(r" ERROR (.*device is cuda, but.*)", log)
    assert error in text


def test_after_scancel_the_job_is_tried_again_and_goes_on(place, cluster, computing, ends_well):
    """With settings and resources of the user's own, which replace the profile's."""
    own = ("--set-resources", "embed_shard:gpu=1", "embed_shard:runtime=50")
    with submitted(place, *own, "--config", "execution={token_budget: 2048}") as driver:
        cluster.run("scancel", computing(driver))
        ends_well(driver)
    assert len(attempts(place)) == 2
    check_nothing_lost("scancel", place)


def test_ctrl_c_cancels_the_jobs_and_the_next_run_goes_on(
    place, cluster, computing, ends_well, monkeypatch
):
    """And status.py, which asks squeue, tells the job that runs from the one that was stopped."""
    for name, value in cluster.environment.items():
        monkeypatch.setenv(name, value)
    with submitted(place) as driver:
        job = computing(driver)
        shard, jobs = read_shard(place), list_slurm_jobs([os.getuid()])
        assert (shard.state, shard.slurm_job) == ("computing", job)
        assert jobs is not None and job in jobs
        os.kill(driver.pid, signal.SIGINT)
        finish(driver, ok=False)
    cluster.wait_until(lambda: not cluster.jobs(), "the jobs are gone")
    assert read_shard(place).state == "stopped" and list_slurm_jobs([os.getuid()]) == set()
    with submitted(place) as driver:
        ends_well(driver)
    assert len(attempts(place)) == 2
    check_nothing_lost("Ctrl-C", place)


def read_shard(place):
    """What status.py reads of rank 0."""
    (dataset,) = read_status(place.folder / "results", Liveness())
    return dataset.shards[0]


def test_a_run_in_one_job_goes_on_when_submitted_again(place, cluster, projects):
    """The documented batch script on a node of four GPUs; cancelled, and submitted again."""
    script = place.folder / "run.sh"
    script.write_text(read_batch_script())
    where = ("--output=run.log", f"--chdir={place.folder}")
    with kept_logs(place):
        job = cluster.run("sbatch", "--parsable", *where, str(script)).strip()
        cluster.wait_until(lambda: is_computing(place), "the worker computes")
        time.sleep(SECONDS)
        cluster.run("scancel", job)
        cluster.wait_until(lambda: not cluster.jobs(), "the job is gone")
        cluster.run("sbatch", *where, str(script))
        cluster.wait_until(lambda: not cluster.jobs(), "the run is done", 120)
    assert read_rows(place.folder / RESULT) == projects["short"].rows
    assert len(attempts(place)) == 2
    check_nothing_lost("one job", place)


@pytest.mark.parametrize("place", ["long"], indirect=True)
def test_a_job_at_its_time_limit_is_tried_again_and_goes_on(place, cluster, ends_well):
    edit_profile(place, {"runtime: 720": "runtime: 1", "embed_shard: 2": "embed_shard: 1"})
    with submitted(place, "--retries=9") as driver:
        text = ends_well(driver, "long")
    assert cluster.finished().count("JobState=TIMEOUT") == len(attempts(place)) - 1 > 0
    assert "'TIMEOUT'" in text
    check_nothing_lost("time limit", place)


def test_a_requeued_job_goes_on(cluster, starts_again):
    starts_again("requeue", lambda job: cluster.run("scontrol", "requeue", job))


def test_a_preempted_job_goes_on(cluster, starts_again):
    def preempt(job):
        wanted = ("--partition=high", "--gpus=4", "--output=/dev/null")
        cluster.run("sbatch", *wanted, "--wrap=sleep 3")
        cluster.wait_until(lambda: not cluster.running(WORK), "the job has made room")

    starts_again("preemption", preempt)


def test_on_a_drained_node_the_job_ends_and_merge_waits(place, cluster, computing, ends_well):
    with submitted(place, "--retries=0") as driver:
        computing(driver)
        node = f"nodename={cluster.host}"
        cluster.run("scontrol", "update", node, "state=drain", "reason=maintenance")
        waits = lambda: [job.state for job in cluster.jobs()] == ["PENDING"]  # noqa: E731
        driver.wait_until(waits, "the worker's job is done, and merge waits", 120)
        cluster.run("scontrol", "update", node, "state=resume")
        ends_well(driver)
    assert len(attempts(place)) == 1


def test_a_restart_of_the_controller_disturbs_no_job(place, cluster, computing, ends_well):
    with submitted(place, "--retries=0") as driver:
        computing(driver)
        cluster.stop_controller()
        time.sleep(OUTAGE_SECONDS)
        cluster.start_controller()
        ends_well(driver)
    assert len(attempts(place)) == 1


def test_a_rank_that_fails_is_tried_again_with_more_memory_and_the_same_time(
    place, cluster, computing, ends_well
):
    with submitted(place) as driver:
        before = cluster.details(job := computing(driver))
        workers(driver)[job][0].kill()
        cluster.wait_until(lambda: not cluster.running(WORK), "the job has failed")
        again = computing(driver, attempt=2)
        after = cluster.details(again)
        ends_well(driver)
    assert again != job and f"JobId={job} UserId=root(0) GroupId=root(0)" in cluster.finished()
    assert (before["MinMemoryNode"], after["MinMemoryNode"]) == ("1500M", "3000M")
    assert before["TimeLimit"] == after["TimeLimit"] == "12:00:00"
