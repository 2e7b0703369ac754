"""Read all the environment variables that this program looks at."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from seqembed.errors import ConfigError

DISABLE_FP16 = "SEQEMBED_DISABLE_FP16"
TRUE_WORDS = frozenset({"1", "true", "yes", "on"})
FALSE_WORDS = frozenset({"", "0", "false", "no", "off"})
# Slurm, LSF and PBS set these in a job.
JOB_NUMBERS = ("SLURM_JOB_ID", "LSB_JOBID", "PBS_JOBID")
# Slurm numbers batch, interactive and external steps from here on (slurm.h).
FIRST_SPECIAL_STEP = 0xFFFFFFF0


@dataclass(frozen=True, kw_only=True)
class EnvConfig:
    """The values of the environment variables.

    disable_fp16: SEQEMBED_DISABLE_FP16. visible_devices: CUDA_VISIBLE_DEVICES, None if it is not
    set. slurm_job: SLURM_JOB_ID, None outside a Slurm job. in_scheduler_job: a scheduler started
    this process, and chose its devices. in_slurm_step: srun started this process.
    """

    disable_fp16: bool
    visible_devices: str | None
    slurm_job: str | None
    in_scheduler_job: bool
    in_slurm_step: bool

    @classmethod
    def from_environ(cls, environ: Mapping[str, str]) -> EnvConfig:
        """Read the variables; raises ConfigError if SEQEMBED_DISABLE_FP16 is not a yes or a no."""
        word = environ.get(DISABLE_FP16, "").strip().lower()
        if word not in TRUE_WORDS | FALSE_WORDS:
            advice = "set it to 1, true, yes or on, or to 0, false, no, off or nothing"
            raise ConfigError(
                f"environment variable {DISABLE_FP16} is {environ[DISABLE_FP16]!r}; {advice}"
            )
        step = environ.get("SLURM_STEP_ID", "")
        return cls(
            disable_fp16=word in TRUE_WORDS,
            visible_devices=environ.get("CUDA_VISIBLE_DEVICES"),
            slurm_job=environ.get("SLURM_JOB_ID"),
            in_scheduler_job=any(name in environ for name in JOB_NUMBERS),
            in_slurm_step=step.isascii() and step.isdigit() and int(step) < FIRST_SPECIAL_STEP,
        )
