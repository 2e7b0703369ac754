"""What a worker decides before its first batch: settings, device, recipe, shard, batch plan."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.utils.data import DataLoader

from seqembed.checkpoints.blocks import Block
from seqembed.checkpoints.checkpoint import Checkpoint
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
    plan_batches,
    plan_passes,
    put_suspects_first,
)
from seqembed.inference.failure_tracker import FailureTracker
from seqembed.inference.runner import AsyncInferenceRunner, Outputs
from seqembed.inference.streams import keep_products_equal
from seqembed.models.encoders.encoder import Encoder
from seqembed.models.prepared import PreparedModel, WeightsCheck, read_prepared
from seqembed.results.reader import store_path
from seqembed.settings.precision import DTYPES
from seqembed.settings.recipe import Recipe, adopt_recipe
from seqembed.settings.request import WorkerSettings, read_settings
from seqembed.settings.token_budget import (
    TOKENS,
    available_memory,
    bytes_a_token,
    cpu_streams,
    gpu_budget,
)
from seqembed.storage.digests import DigestIndex, from_hex
from seqembed.storage.publish import raise_open_file_limit
from seqembed.worker.writer import CheckpointWriter


@dataclass(frozen=True, kw_only=True, eq=False)
class Run:
    """What one worker needs to embed one shard, every `auto` resolved."""

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
    def resolved(self) -> dict[str, str]:
        """Keys of `model_config` that only this run knows: its checkpoints and its precision."""
        return {"checkpoint_key": self.checkpoint_key, "precision": self.recipe.precision}

    def copy_from_store(
        self, checkpoint: Checkpoint, finished: Set[str], output_dir: Path
    ) -> list[Block]:
        """Copy rows that an earlier result has and that are not `finished` into new blocks."""
        path = store_path(output_dir.parent / "store", self.recipe.fingerprint)
        missing = DigestIndex(from_hex(finished)).find(self.shard.digests) < 0
        return checkpoint.copy_from_store(
            path, self.shard.digests[missing], self.recipe.fingerprint
        )

    def load_batches(
        self,
        index_path: Path,
        rows: Sequence[int],
        manifest: CheckpointManifest,
        convert: Encode,
        tracker: FailureTracker,
    ) -> tuple[DataLoader[PackedBatch], int]:
        """The batches that hold any of `rows`, and how many tokens they have together.

        Batches are planned over all rows of the shard. A sequence that may have crashed a worker is
        a batch by itself.
        """
        policy, token_budget = self.recipe.policy, manifest.token_budget
        tracker.start(rows, self.weights.require)
        passes = policy.passes(self.shard.tokens, token_budget)
        last = policy.last_pass(self.shard.tokens, token_budget)
        plan = plan_batches(last, token_budget, passes > 1)
        boundaries, batches = put_suspects_first(plan, rows, tracker.suspects)
        at_once = policy.windows_a_pass(token_budget)
        planned = plan_passes(boundaries, batches, passes, at_once)
        dataset = IndexBasedDataset(index_path, boundaries, planned, at_once)
        loader = create_async_dataloader(dataset, VarlenCollator(convert, policy), self.device)
        counts = policy.model_tokens(self.shard.tokens)
        sums = np.diff(np.append(0, counts.cumsum())[boundaries])[batches]
        self._log_fill(sums, passes[boundaries[batches]] * token_budget)
        return loader, int(sums.sum())

    def _log_fill(self, tokens: NDArray[np.int64], room: NDArray[np.int64]) -> None:
        """Log how full (b,) batches are; one over the budget counts as full."""
        if len(tokens):
            fill = 100 * tokens.sum() / np.maximum(tokens, room).sum()
            words = "%s batches are to compute, filled to %.2f%%"
            self.logger.info(words, f"{len(tokens):,}", fill)

    def open_tracker(
        self, folder: Path, index_path: Path, model_config: Mapping[str, Any]
    ) -> FailureTracker:
        """Read the failures of earlier runs, and record how the process before this one ended.

        `crash` in `model_config` describes that end; `began` is called once it is recorded.
        """
        name_of = partial(read_id, index_path)
        tracker = FailureTracker(folder, self.shard.digests, name_of, self.logger)
        tracker.record_crash(model_config.get("crash"))
        if began := model_config.get("began"):
            began()
        return tracker

    def open_runner(
        self,
        model: nn.Module,
        tracker: FailureTracker,
        load_fp32: Callable[[], tuple[nn.Module, Any]],
        manifest: CheckpointManifest,
        batches: int,
    ) -> AsyncInferenceRunner:
        """The runner of `batches` batches; also start the background checksum of the weights.

        load_fp32: loads the model in fp32.
        """
        token_budget = manifest.token_budget
        self.weights.start()
        free, token_bytes, threads = self._free_memory(), self._token_bytes, self.settings.threads
        at_once = 1
        if self.device.type == "cpu":
            # With fewer batches than threads, each batch gets several threads.
            at_once = cpu_streams(token_bytes, token_budget, min(threads, batches), free)
        words = "at most %s tokens a batch, %s at once; they need about %.1f of %.1f GB"
        needed = at_once * token_budget * token_bytes
        self.logger.info(words, f"{token_budget:,}", at_once, needed / 1e9, free / 1e9)
        return AsyncInferenceRunner(
            cast(Encoder, model),
            self.device,
            Outputs(
                pooling=self.recipe.pooling,
                pools_specials=self.model.facts.pools_specials,
                per_residue=self.recipe.per_residue,
                storage=self.recipe.storage,
            ),
            tracker,
            lambda: cast(Encoder, load_fp32()[0]),
            token_budget=token_budget,
            streams=at_once,
            threads=threads,
        )

    @property
    def _token_bytes(self) -> int:
        return bytes_a_token(self.model.architecture, DTYPES[self.recipe.precision].itemsize)

    def _free_memory(self) -> int:
        """Free bytes of the device."""
        if self.device.type == "cuda":
            return torch.cuda.mem_get_info(self.device)[0]
        return available_memory()

    def open_writer(
        self,
        folder: Path,
        rows: Sequence[int],
        config: Mapping[str, Any],
        stored: Iterable[Block] = (),
    ) -> CheckpointWriter:
        """A writer of the missing rows; `config` says when a checkpoint is due.

        stored: blocks of rows that were taken from the store.
        """
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
            stored=stored,
        )

    def manifest(self, earlier: CheckpointManifest | None) -> CheckpointManifest:
        """This run's manifest. A token budget that the user set replaces the earlier one.

        Raises CheckpointError if the earlier manifest is of another recipe or shard.
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
        # The model is loaded later.
        return gpu_budget(self._token_bytes, max(0, self._free_memory() - self.model.size))


def open_run(
    index_path: Path, output_dir: Path, model_config: Mapping[str, Any], logger: logging.Logger
) -> Run:
    """Resolve every `auto`; raises a SeqembedError that says why this worker cannot run."""
    settings, environment = read_settings(model_config), EnvConfig.from_environ(os.environ)
    keep_products_equal(os.environ)
    raise_open_file_limit()
    torch.set_num_threads(settings.threads)
    # The supervisor leaves the list empty where it chose the CPU, and has said so.
    on_cpu = settings.device == "auto" and environment.visible_devices == ""
    device = choose_device("cpu" if on_cpu else settings.device, logger)
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
    """CUDA's first device, or the CPU; raises DeviceError if CUDA is asked for and missing.

    CUDA_VISIBLE_DEVICES has decided before which GPU is the first.
    """
    if asked == "cpu":
        return torch.device("cpu")
    if torch.cuda.is_available():
        return torch.device("cuda", 0)
    reason = (
        "this PyTorch has no CUDA" if not torch.version.cuda else "PyTorch finds no CUDA device"
    )
    if asked == "cuda":
        raise DeviceError(f"device is cuda, but {reason}; correct that, or set `device: cpu`")
    logger.warning("%s: the CPU is used", reason)
    return torch.device("cpu")
