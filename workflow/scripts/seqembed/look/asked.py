"""What `plan` is asked: datasets, and what limits how many shards run at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from seqembed.environment import EnvConfig
from seqembed.errors import ConfigError
from seqembed.look.expected import Asked, Kind, expect_device, list_allowed
from seqembed.machine.devices import Device, name_device
from seqembed.machine.processor import name_processor
from seqembed.settings.request import Request


@dataclass(frozen=True, kw_only=True)
class PlannedDataset:
    """The settings of a dataset to plan; raises ConfigError for a value that is not allowed.

    model: its name. source: where it comes from. fasta: the paths and globs. shards: how many.
    request: what is computed. invalid_residues: the setting. reuse: paths and globs of earlier
    results. threads: how many CPU threads a worker gets. indexed: whether the dataset's index is
    there, because its model is prepared.
    """

    name: str
    model: str
    source: str
    fasta: Sequence[str]
    shards: int
    request: Request
    invalid_residues: Literal["error", "unk", "skip"]
    reuse: Sequence[str]
    threads: int
    indexed: bool


@dataclass(frozen=True, kw_only=True)
class Surroundings:
    """What all datasets of a plan share.

    results, models, speeds: the folders. asked: the setting `device`. token_budget: the setting.
    checkpoint_sequences: after how many sequences a checkpoint is due. cores, gpu, jobs: what
    Snakemake was given for each, which limits how many shards run at once; None: no limit. cluster:
    whether jobs run on other machines.
    """

    results: Path
    models: Path
    speeds: Path
    asked: Asked
    token_budget: Literal["auto"] | int
    checkpoint_sequences: int
    cores: int | None
    gpu: int | None
    jobs: int | None
    cluster: bool
    environment: EnvConfig

    @cached_property
    def gpus(self) -> Sequence[Device]:
        """The GPUs of this machine that jobs may use; none if jobs run on other machines."""
        return [] if self.cluster else list_allowed(self.environment)

    @property
    def device(self) -> Kind:
        """Where workers will compute."""
        return expect_device(self.asked, len(self.gpus))

    def at_once(self, threads: int) -> int:
        """Return how many shards run at the same time; threads: of a worker."""
        limits = [self.jobs] if self.cluster else [self.cores and self.cores // threads]
        # Where `auto` means the CPU, Snakemake's job still takes one of the limit.
        if self.asked != "cpu":
            limits.append(self.gpu)
        if self.device == "cuda":
            limits.append(len(self.gpus) or None)
        return max(1, min((limit for limit in limits if limit is not None), default=1))

    def device_name(self, device: Kind) -> str:
        """Return the name of the card or processor that will compute; "" if it is not known.

        Where there are cards of several kinds, the first one that is allowed counts.
        """
        if self.cluster:
            return ""
        if device == "cpu":
            return name_processor()
        return name_device(self.gpus[0]) if self.gpus else ""


def read_dataset(content: Mapping[str, Any]) -> PlannedDataset:
    """Return a dataset's settings from JSON; ConfigError for a bad, missing or unknown key."""
    try:
        return PlannedDataset(**{**content, "request": Request(**content["request"])})
    except (TypeError, KeyError) as error:
        raise ConfigError(f"--datasets: a key is missing or not known: {error}") from error
