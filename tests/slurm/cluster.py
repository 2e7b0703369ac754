"""A Slurm of one node and four GPU slots, its daemons bound to this machine; needs root and Debian.

The GPUs are character devices with the numbers of /dev/null: Slurm hands them out like any others.
Signals, time limits, requeues and preemption are those of a real cluster.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import signal
import socket
import stat
import subprocess
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
from debian import install_packages
from driver import wait_until

SLOTS = 4
PACKAGES = ("slurmctld", "slurmd", "munge", "slurm-client")
PROGRAMS = ("slurmctld", "slurmd", "munged", "sbatch")
WAIT_SECONDS = 60
FREEZER = Path("/sys/fs/cgroup/freezer")

# PreemptMode=REQUEUE without GraceTime, as sites have it that requeue what they preempt.
# cred_expire lets a requeued job start again after seconds, not minutes. MinJobAge lets squeue tell
# of finished jobs: there is no other record of them.
SLURM_CONF = """\
ClusterName=one
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller_port}
SlurmdPort={node_port}
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
MpiDefault=none
SwitchType=switch/none
ProctrackType={tracking}
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/filetxt
JobCompLoc={folder}/finished.txt
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=2,bf_interval=2,batch_sched_delay=0,sched_min_interval=100000
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
DefMemPerCPU=100
SlurmdParameters=config_overrides
ReturnToService=2
SlurmctldTimeout=60
SlurmdTimeout=60
KillWait=30
OverTimeLimit=0
MinJobAge=3600
InactiveLimit=0
JobRequeue=1
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
GresTypes=gpu
NodeName={host} NodeAddr=127.0.0.1 Port={node_port} CPUs=16 Boards=1 SocketsPerBoard=1 \
CoresPerSocket=16 ThreadsPerCore=1 RealMemory={memory} Gres=gpu:fake:{slots} State=UNKNOWN
PartitionName=cpu Nodes={host} Default=YES MaxTime=INFINITE State=UP PriorityTier=10
PartitionName=gpu Nodes={host} MaxTime=INFINITE State=UP PriorityTier=10
PartitionName=high Nodes={host} MaxTime=INFINITE State=UP PriorityTier=20 PreemptMode=OFF
"""
GRES_CONF = "AutoDetect=off\nNodeName={host} Name=gpu Type=fake File={folder}/gpu[0-{last}]\n"
CGROUP_CONF = """\
CgroupPlugin=cgroup/v1
CgroupMountpoint=/sys/fs/cgroup
CgroupAutomount=no
ConstrainCores=no
ConstrainDevices=no
ConstrainRAMSpace=no
"""
# The executor's job step starts srun without SLURM_CONF, and looks for it on PATH.
SRUN = '#!/bin/sh\nSLURM_CONF={folder}/slurm.conf exec /usr/bin/srun "$@"\n'


def install() -> None:
    """Install Debian's packages of Slurm where they are missing."""
    if not all(map(shutil.which, PROGRAMS)):
        install_packages(PACKAGES)


@dataclass(frozen=True)
class Job:
    """A job that waits or runs."""

    number: str
    comment: str
    state: str


class Cluster:
    """The daemons, their folder, and the commands of users and administrators."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.host = folder, platform.node().partition(".")[0]

    @property
    def environment(self) -> Mapping[str, str]:
        """The environment variables of a user's shell."""
        path = f"{self.folder}/bin:{os.environ['PATH']}"
        return {"SLURM_CONF": f"{self.folder}/slurm.conf", "PATH": path}

    def start(self) -> None:
        self._write()
        folder = self.folder
        self.run(
            "munged",
            *(f"--key-file={folder}/munge.key", f"--socket={folder}/munge.socket"),
            *(f"--pid-file={folder}/munged.pid", f"--log-file={folder}/munged.log"),
            f"--seed-file={folder}/munge.seed",
        )
        self.start_controller()
        self.run("slurmd", "-f", f"{folder}/slurm.conf")
        self.wait_until(lambda: "idle" in self.run("sinfo", "-h", "-o", "%t"), "the node is idle")

    def start_controller(self) -> None:
        self.run("slurmctld", "-f", f"{self.folder}/slurm.conf")

    def stop_controller(self) -> None:
        self._stop("slurmctld")

    def stop(self) -> None:
        for daemon in ("slurmd", "slurmctld", "munged"):
            self._stop(daemon)
        with suppress(OSError):
            # Slurm leaves it, empty unless another cluster uses it.
            (FREEZER / f"slurm_{self.host}").rmdir()

    def cancel_all(self) -> None:
        self.run("scontrol", "update", f"nodename={self.host}", "state=resume", ok=None)
        self.run("scancel", "--user=root", ok=None)
        self.wait_until(lambda: not self.jobs(), "no job is left")

    def run(self, *command: str, ok: bool | None = True) -> str:
        """Run a program of Slurm, which must succeed unless `ok` is None; return its output."""
        done = subprocess.run(
            command, env=os.environ | self.environment, capture_output=True, text=True, check=False
        )
        output = f"{command}: {done.stdout}{done.stderr}"
        assert ok is None or done.returncode == 0, f"{output}\n{self._logs()}"
        return done.stdout

    def jobs(self) -> list[Job]:
        """The jobs that wait or run, by their numbers."""
        lines = self.run("squeue", "--noheader", "--format=%i|%k|%T").splitlines()
        return sorted((Job(*line.split("|")) for line in lines), key=lambda job: int(job.number))

    def running(self, comment: str) -> list[Job]:
        """The running jobs whose comment, which names rule and wildcards, begins with a text."""
        jobs = self.jobs()
        return [job for job in jobs if job.comment.startswith(comment) and job.state == "RUNNING"]

    def details(self, number: str) -> dict[str, str]:
        """The fields that scontrol shows of a job, its devices too."""
        text = self.run("scontrol", "show", "job", "--details", number)
        return dict(re.findall(r"(\S+?)=(\S*)", text))

    def finished(self) -> str:
        """A line of each job that ended, requeued ones too: JobState=, Partition=, ..."""
        return (self.folder / "finished.txt").read_text()

    def wait_until(
        self, condition: Callable[[], object], what: str, seconds: float = WAIT_SECONDS
    ) -> None:
        try:
            wait_until(condition, what, seconds)
        except AssertionError as error:
            error.add_note(self._logs())
            raise

    def _write(self) -> None:
        folder, last = self.folder, SLOTS - 1
        folder.chmod(0o755)
        for name in ("state", "spool", "bin"):
            (folder / name).mkdir()
        for slot in range(SLOTS):
            os.mknod(folder / f"gpu{slot}", 0o666 | stat.S_IFCHR, os.makedev(1, 3))
        key = folder / "munge.key"
        key.write_bytes(os.urandom(1024))
        key.chmod(0o600)
        ports = _free_ports(2)
        configuration = SLURM_CONF.format(
            host=self.host,
            folder=folder,
            controller_port=ports[0],
            node_port=ports[1],
            slots=SLOTS,
            memory=psutil.virtual_memory().total // 2**20 - 1024,
            tracking="proctrack/cgroup" if _has_freezer() else "proctrack/pgid",
        )
        (folder / "slurm.conf").write_text(configuration)
        (folder / "gres.conf").write_text(
            GRES_CONF.format(host=self.host, folder=folder, last=last)
        )
        (folder / "cgroup.conf").write_text(CGROUP_CONF)
        (folder / "bin/srun").write_text(SRUN.format(folder=folder))
        (folder / "bin/srun").chmod(0o755)

    def _stop(self, daemon: str) -> None:
        path = self.folder / f"{daemon}.pid"
        if not path.exists():
            return
        with suppress(psutil.NoSuchProcess):
            process = psutil.Process(int(path.read_text()))
            process.send_signal(signal.SIGTERM)
            process.wait(WAIT_SECONDS)

    def _logs(self) -> str:
        logs = sorted(self.folder.glob("*.log"))
        return "\n".join(f"{path.name}:\n{path.read_text()[-3000:]}" for path in logs)


def _has_freezer() -> bool:
    """Whether Slurm can track processes by cgroups of version 1, as clusters do."""
    probe = FREEZER / "seqembed-probe"
    try:
        probe.mkdir()
        probe.rmdir()
    except OSError:
        return False
    return (FREEZER / "tasks").exists()


def _free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    try:
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()
