"""What a worker settles before its first batch: settings, device, recipe, shard, batch plan."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.utils.data import DataLoader

from seqembed.checkpoints.manifest import CheckpointManifest
from seqembed.environment import EnvConfig
from seqembed.errors import CheckpointError, DeviceError
from seqembed.index.table import ShardIndex, read_id, read_shard_index
from seqembed.inference.batches import (
    Encode,
    IndexBasedDataset,
    PackedBatch,
    VarlenCollator,
    create_async_dataloader,
    cut_at,
    order,
    pending_batches,
    plan_batches,
    plan_passes,
)
from seqembed.inference.runner import AsyncInferenceRunner, Outputs
from seqembed.inference.trials import Trials
from seqembed.models.encoders.encoder import Encoder
from seqembed.models.prepared import PreparedModel, read_prepared
from seqembed.models.weights_check import WeightsCheck
from seqembed.settings.memory import (
    TOKENS,
    available_memory,
    bytes_a_token,
    cpu_streams,
    gpu_budget,
)
from seqembed.settings.precision import torch_dtype
from seqembed.settings.recipe import Recipe, adopt_recipe
from seqembed.settings.worker import WorkerSettings, read_settings
from seqembed.worker.writer import CheckpointWriter


@dataclass(frozen=True, kw_only=True, eq=False)
class Run:
    """One worker's run over one shard."""

    settings: WorkerSettings
    device: torch.device
    model: PreparedModel
    recipe: Recipe
    shard: ShardIndex
    weights: WeightsCheck
    logger: logging.Logger

    @property
    def checkpoint_key(self) -> str:
        """The folder under `checkpoints/` of this recipe and this shard."""
        return f"{self.recipe.fingerprint[:12]}-{self.shard.fingerprint[:12]}"

    @property
    def outputs(self) -> Outputs:
        """What is wanted of the model's token rows."""
        return Outputs(
            pooling=self.recipe.pooling,
            pools_specials=self.model.facts.pools_specials,
            per_residue=self.recipe.per_residue,
            storage=self.recipe.storage,
        )

    def load_batches(
        self,
        index_path: Path,
        rows: Sequence[int],
        manifest: CheckpointManifest,
        convert: Encode,
        trials: Trials,
    ) -> tuple[DataLoader[PackedBatch], int]:
        """The packed batches of the plan that hold any of `rows`, and their tokens in all.

        Each suspect of the trials is a batch by itself.
        """
        policy, token_budget = self.recipe.policy, manifest.token_budget
        trials.expect(rows, self.weights.require)
        suspects = trials.suspects
        passes = policy.passes(self.shard.tokens, token_budget)
        last = policy.last_pass(self.shard.tokens, token_budget)
        boundaries = cut_at(plan_batches(last, token_budget, passes > 1), suspects)
        batches = order(pending_batches(boundaries, rows), boundaries, suspects)
        at_once = policy.windows_a_pass(token_budget)
        planned = plan_passes(boundaries, batches, passes, at_once)
        dataset = IndexBasedDataset(index_path, boundaries, planned, at_once)
        loader = create_async_dataloader(dataset, VarlenCollator(convert, policy), self.device)
        sums = np.diff(np.append(0, policy.read(self.shard.tokens).cumsum())[boundaries])[batches]
        self._tell_fill(sums, passes[boundaries[batches]] * token_budget)
        return loader, int(sums.sum())

    def _tell_fill(self, tokens: NDArray[np.int64], room: NDArray[np.int64]) -> None:
        """Log how full the passes of (b,) batches are; what is over the budget counts as full."""
        if len(tokens):
            fill = 100 * tokens.sum() / np.maximum(tokens, room).sum()
            words = "%s batches are to compute, filled to %.2f%%"
            self.logger.info(words, f"{len(tokens):,}", fill)

    def open_trials(self, folder: Path, index_path: Path, logger: logging.Logger) -> Trials:
        """What earlier runs over the shard learnt of what fails."""
        name_of = partial(read_id, index_path)
        return Trials(folder, self.shard.digests, name_of, logger)

    def open_runner(
        self,
        model: nn.Module,
        trials: Trials,
        load_fp32: Callable[[], tuple[nn.Module, Any]],
        token_budget: int,
        batches: int,
    ) -> AsyncInferenceRunner:
        """What takes so many batches through the model, whose weights are read again meanwhile.

        load_fp32: gives it in fp32, as loaded.
        """
        self.weights.start()
        free, token_bytes, threads = self._free_memory(), self._token_bytes, self.settings.threads
        at_once = 1
        if self.device.type == "cpu":
            # Of few batches each has more of the threads.
            at_once = cpu_streams(token_bytes, token_budget, min(threads, batches), free)
        words = "at most %s tokens a batch, %s at once; they need about %.1f of %.1f GB"
        needed = at_once * token_budget * token_bytes
        self.logger.info(words, f"{token_budget:,}", at_once, needed / 1e9, free / 1e9)
        return AsyncInferenceRunner(
            cast(Encoder, model),
            self.device,
            self.outputs,
            trials,
            lambda: cast(Encoder, load_fp32()[0]),
            token_budget=token_budget,
            streams=at_once,
            threads=threads,
        )

    @property
    def _token_bytes(self) -> int:
        return bytes_a_token(self.model.architecture, torch_dtype(self.recipe.precision).itemsize)

    def _free_memory(self) -> int:
        """Bytes that are free where batches are computed."""
        if self.device.type == "cuda":
            return torch.cuda.mem_get_info(self.device)[0]
        return available_memory()

    def open_writer(
        self, folder: Path, rows: Sequence[int], config: Mapping[str, Any]
    ) -> CheckpointWriter:
        """A writer of the rows that are not there yet; `config` says when a checkpoint is due."""
        wanted = np.zeros(len(self.shard.rows), bool)
        wanted[rows] = True
        return CheckpointWriter(
            folder,
            digests=self.shard.digests,
            flags=self.recipe.policy.flags(self.shard.tokens),
            wanted=wanted,
            per_residue=self.recipe.per_residue,
            sequences=config["checkpoint_seq_threshold"],
            seconds=config["checkpoint_time_threshold"],
            check=self.weights.require,
        )

    def manifest(self, earlier: CheckpointManifest | None) -> CheckpointManifest:
        """This run's manifest: a token budget that is asked for wins over an earlier one.

        Raises CheckpointError where the earlier one is of another recipe or shard.
        """
        mine = (self.recipe.fingerprint, self.shard.fingerprint)
        if earlier and (earlier.recipe_fingerprint, earlier.shard_fingerprint) != mine:
            message = f"checkpoints/{self.checkpoint_key}: holds rows of another recipe or shard"
            raise CheckpointError(f"{message}; remove that folder and run again")
        budget = self.settings.token_budget
        if budget == "auto":
            budget = earlier.token_budget if earlier else self._choose_budget()
        return CheckpointManifest(
            rank=self.shard.rank,
            world_size=self.shard.world_size,
            recipe_fingerprint=self.recipe.fingerprint,
            shard_fingerprint=self.shard.fingerprint,
            token_budget=budget,
            model=self.model.name,
            weights_sha256=self.model.sha256,
            width=self.model.architecture.width,
            recipe=self.recipe.fields(),
        )

    def _choose_budget(self) -> int:
        if self.device.type == "cpu":
            return TOKENS["cpu"]
        # The model is not there yet.
        return gpu_budget(self._token_bytes, max(0, self._free_memory() - self.model.size))


def open_run(
    index_path: Path, output_dir: Path, model_config: Mapping[str, Any], logger: logging.Logger
) -> Run:
    """Settle all that is open; raises what says why this worker cannot run (SeqembedError)."""
    settings, environment = read_settings(model_config), EnvConfig.from_environ(os.environ)
    torch.set_num_threads(settings.threads)
    # An empty list is the supervisor's choice of the CPU, which it told of.
    told = settings.device == "auto" and environment.visible_devices == ""
    device = choose_device("cpu" if told else settings.device, logger)
    model = read_prepared(settings.model)
    recipes = output_dir.parent / "recipes"
    recipe = adopt_recipe(recipes, settings.request, model, device, environment)
    shard = read_shard_index(index_path)
    recipe.policy.refuse(shard.tokens, "tokens")
    words = (model.name, device, recipe.precision, recipe.fingerprint[:12])
    logger.info("model %s on %s, %s, recipe %s", *words)
    return Run(
        settings=settings,
        device=device,
        model=model,
        recipe=recipe,
        shard=shard,
        weights=WeightsCheck(settings.model, model),
        logger=logger,
    )


def choose_device(asked: Literal["auto", "cuda", "cpu"], logger: logging.Logger) -> torch.device:
    """CUDA's first device or the CPU; raises DeviceError where CUDA is asked for and is not there.

    Which GPU is the first was decided before, by CUDA_VISIBLE_DEVICES.
    """
    if asked == "cpu":
        return torch.device("cpu")
    if torch.cuda.is_available():
        return torch.device("cuda", 0)
    reason = (
        "this PyTorch has no CUDA" if not torch.version.cuda else "PyTorch finds no CUDA device"
    )
    if asked == "cuda":
        message = f"device is cuda, but {reason}; mend that, or set `device: cpu`"
        raise DeviceError(message)
    logger.warning("%s: the CPU is used", reason)
    return torch.device("cpu")
