"""All the environment variables that this program reads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from seqembed.errors import ConfigError

TRUE_WORDS = frozenset({"1", "true", "yes", "on"})
FALSE_WORDS = frozenset({"", "0", "false", "no", "off"})
# Slurm, LSF and PBS set these in a job.
JOB_NUMBERS = ("SLURM_JOB_ID", "LSB_JOBID", "PBS_JOBID")
# Slurm numbers batch, interactive and external steps from here on (slurm.h).
FIRST_SPECIAL_STEP = 0xFFFFFFF0


@dataclass(frozen=True, kw_only=True)
class EnvConfig:
    """The values of the environment variables.

    disable_fp16: SEQEMBED_DISABLE_FP16, a yes or a no.
    visible_devices: CUDA_VISIBLE_DEVICES unchanged, None if it is not set.
    slurm_job: SLURM_JOB_ID, None outside a Slurm job.
    in_scheduler_job: a scheduler started this process, and chose its devices.
    in_slurm_step: SLURM_STEP_ID is the number of a step that srun started.
    """

    disable_fp16: bool
    visible_devices: str | None
    slurm_job: str | None
    in_scheduler_job: bool
    in_slurm_step: bool

    @classmethod
    def from_environ(cls, environ: Mapping[str, str]) -> EnvConfig:
        """Read the variables; raises ConfigError, naming the one with an impossible value."""
        return cls(
            disable_fp16=_switch(environ, "SEQEMBED_DISABLE_FP16"),
            visible_devices=environ.get("CUDA_VISIBLE_DEVICES"),
            slurm_job=environ.get("SLURM_JOB_ID"),
            in_scheduler_job=any(name in environ for name in JOB_NUMBERS),
            in_slurm_step=_is_step_number(environ.get("SLURM_STEP_ID", "")),
        )


def _switch(environ: Mapping[str, str], name: str) -> bool:
    word = environ.get(name, "").strip().lower()
    if word not in TRUE_WORDS | FALSE_WORDS:
        choices = "1, true, yes or on, or to 0, false, no, off or nothing"
        raise ConfigError(f"environment variable {name} is {environ[name]!r}; set it to {choices}")
    return word in TRUE_WORDS


def _is_step_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and int(text) < FIRST_SPECIAL_STEP
