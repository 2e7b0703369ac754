import dataclasses

import pytest

from seqembed.environment import EnvConfig
from seqembed.errors import ConfigError


def test_nothing_set():
    environment = EnvConfig.from_environ({})
    assert environment == EnvConfig(
        disable_fp16=False,
        visible_devices=None,
        slurm_job=None,
        in_scheduler_job=False,
        in_slurm_step=False,
    )
    with pytest.raises(dataclasses.FrozenInstanceError):
        environment.disable_fp16 = True


@pytest.mark.parametrize(
    ("word", "disabled"),
    [(word, True) for word in ("1", "true", "yes", "on", "TRUE", " Yes ")]
    + [(word, False) for word in ("0", "false", "no", "off", "", " ", "Off")],
)
def test_fp16_is_disabled_by_a_yes(word, disabled):
    assert EnvConfig.from_environ({"SEQEMBED_DISABLE_FP16": word}).disable_fp16 is disabled


@pytest.mark.parametrize("word", ["2", "maybe", "-1", "yess"])
def test_an_unknown_word_is_refused_and_the_variable_named(word):
    with pytest.raises(ConfigError, match=f"SEQEMBED_DISABLE_FP16 is '{word}'.*true, yes or on"):
        EnvConfig.from_environ({"SEQEMBED_DISABLE_FP16": word})


@pytest.mark.parametrize("devices", ["", "0", "1,GPU-8f3c", " 0"])
def test_visible_devices_are_kept_unchanged(devices):
    assert EnvConfig.from_environ({"CUDA_VISIBLE_DEVICES": devices}).visible_devices == devices


@pytest.mark.parametrize(
    ("step", "inside"),
    [
        ("0", True),
        ("17", True),
        ("", False),
        ("batch", False),
        ("-5", False),
        ("²", False),
        ("4294967291", False),  # SLURM_BATCH_SCRIPT
        ("4294967290", False),  # SLURM_INTERACTIVE_STEP
    ],
)
def test_a_slurm_step_has_a_number(step, inside):
    assert EnvConfig.from_environ({"SLURM_STEP_ID": step}).in_slurm_step is inside


@pytest.mark.parametrize("name", ["SLURM_JOB_ID", "LSB_JOBID", "PBS_JOBID"])
def test_a_scheduler_numbers_its_jobs(name):
    environment = EnvConfig.from_environ({name: "17"})
    assert environment.in_scheduler_job
    assert environment.slurm_job == ("17" if name == "SLURM_JOB_ID" else None)
