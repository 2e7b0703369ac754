"""The environment variables that this program reads, all of them, in one place."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from seqembed.errors import ConfigError

TRUE_WORDS = frozenset({"1", "true", "yes", "on"})
FALSE_WORDS = frozenset({"", "0", "false", "no", "off"})
# Of a job of Slurm, LSF and PBS.
JOB_NUMBERS = ("SLURM_JOB_ID", "LSB_JOBID", "PBS_JOBID")
# Slurm numbers batch, interactive and external steps from here on (slurm.h).
FIRST_SPECIAL_STEP = 0xFFFFFFF0


@dataclass(frozen=True, kw_only=True)
class EnvConfig:
    """What the environment says.

    disable_fp16: SEQEMBED_DISABLE_FP16, a yes or a no.
    visible_devices: CUDA_VISIBLE_DEVICES as it stands, None where it is not set.
    slurm_job: SLURM_JOB_ID, None outside of a job.
    in_scheduler_job: a scheduler started this, and chose the devices.
    in_slurm_step: SLURM_STEP_ID is the number of a step that srun started.
    """

    disable_fp16: bool
    visible_devices: str | None
    slurm_job: str | None
    in_scheduler_job: bool
    in_slurm_step: bool

    @classmethod
    def from_environ(cls, environ: Mapping[str, str]) -> EnvConfig:
        """Read the variables; raises ConfigError, naming the one that makes no sense."""
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
        choices = "1, true, yes, on; 0, false, no, off, or nothing"
        raise ConfigError(
            f"environment variable {name} is {environ[name]!r}; set it to one of {choices}"
        )
    return word in TRUE_WORDS


def _is_step_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and int(text) < FIRST_SPECIAL_STEP
