"""Read all the environment variables that seqembed uses."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from seqembed.errors import ConfigError

DISABLE_FP16 = "SEQEMBED_DISABLE_FP16"
# Set by the workflow if Snakemake shows the logs of failed jobs on the screen.
LOGS_ARE_SHOWN = "SEQEMBED_LOGS_ARE_SHOWN"
TRUE_WORDS = {"1", "true", "yes", "on"}
FALSE_WORDS = {"", "0", "false", "no", "off"}
# Slurm gives numbers from here on to the steps that srun did not start (slurm.h).
FIRST_SPECIAL_STEP = 0xFFFFFFF0


@dataclass(frozen=True, kw_only=True)
class EnvConfig:
    """The values of the environment variables.

    disable_fp16: whether SEQEMBED_DISABLE_FP16 forbids fp16. visible_devices: the text of
    CUDA_VISIBLE_DEVICES, None if it is not set. slurm_job: the number of the Slurm job, None
    outside a Slurm job. in_scheduler_job: whether this process runs in a job of Slurm, LSF or PBS.
    in_slurm_step: whether srun started this process.
    """

    disable_fp16: bool
    visible_devices: str | None
    slurm_job: str | None
    in_scheduler_job: bool
    in_slurm_step: bool

    @classmethod
    def from_environ(cls, environ: Mapping[str, str]) -> EnvConfig:
        """Return the values; raises ConfigError if SEQEMBED_DISABLE_FP16 has an unknown value."""
        word = environ.get(DISABLE_FP16, "").strip().lower()
        if word not in TRUE_WORDS | FALSE_WORDS:
            found = f"environment variable {DISABLE_FP16} is {environ[DISABLE_FP16]!r}"
            advice = "set it to 1, true, yes or on, or to 0, false, no, off or nothing"
            raise ConfigError(f"{found}; {advice}")
        step = environ.get("SLURM_STEP_ID", "")
        return cls(
            disable_fp16=word in TRUE_WORDS,
            visible_devices=environ.get("CUDA_VISIBLE_DEVICES"),
            slurm_job=environ.get("SLURM_JOB_ID"),
            in_scheduler_job=bool(environ.keys() & {"SLURM_JOB_ID", "LSB_JOBID", "PBS_JOBID"}),
            in_slurm_step=step.isascii() and step.isdigit() and int(step) < FIRST_SPECIAL_STEP,
        )


def logs_are_shown(environ: Mapping[str, str]) -> bool:
    """Whether Snakemake will show this program's log on the screen if the program fails."""
    return environ.get(LOGS_ARE_SHOWN) == "1"
