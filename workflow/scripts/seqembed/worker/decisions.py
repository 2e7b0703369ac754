"""Decide, before the first batch, what a worker needs: settings, device, recipe, shard, batches."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from seqembed.checkpoints.manifest_and_failures import CheckpointManifest
from seqembed.checkpoints.take_rows import RowTaker
from seqembed.environment import EnvConfig
from seqembed.index.reader import ShardIndex, read_id, read_shard_index
from seqembed.inference.batches import (
    Encode,
    Filling,
    VarlenCollator,
    choose_filling,
    plan_batches,
    plan_passes,
    put_suspects_first,
)
from seqembed.inference.failure_tracker import FailureTracker
from seqembed.inference.graphs import open_graphs
from seqembed.inference.loader import BatchLoader, IndexBasedDataset, create_async_dataloader
from seqembed.inference.rows import Outputs
from seqembed.inference.runner import AsyncInferenceRunner
from seqembed.inference.streams import keep_products_equal
from seqembed.kernels.names import FUSED
from seqembed.models.encoders.encoder import Encoder
from seqembed.models.encoders.tokenization import limit_tokenizer_threads
from seqembed.models.prepared import PreparedModel, WeightsCheck, read_prepared
from seqembed.results.reader import join_names
from seqembed.settings.lengths import LengthPolicy, resolve_policy
from seqembed.settings.precision import DTYPES
from seqembed.settings.recipe import Recipe
from seqembed.settings.request import WorkerSettings, read_settings
from seqembed.settings.token_budget import (
    TOKENS,
    bytes_a_token,
    bytes_alone,
    cpu_streams,
    whole_blocks,
)
from seqembed.storage.publish import raise_open_file_limit
from seqembed.worker.checkpoint_writer import CheckpointWriter
from seqembed.worker.device import add_name, choose_device, free_memory
from seqembed.worker.manifest import check_same, checkpoint_key, make_manifest
from seqembed.worker.recipe_choice import choose_recipe

# A model and its tokenizer.
Loaded = tuple[nn.Module, Any]


@dataclass(frozen=True, kw_only=True, eq=False)
class Run:
    """What one worker needs to embed one shard, with every `auto` resolved."""

    settings: WorkerSettings
    device: torch.device
    model: PreparedModel
    recipe: Recipe
    shard: ShardIndex
    weights: WeightsCheck
    logger: logging.Logger

    @property
    def checkpoint_key(self) -> str:
        """The name of the folder in `checkpoints/` for this recipe and this shard."""
        return checkpoint_key(self.recipe, self.shard)

    @property
    def policy(self) -> LengthPolicy:
        """What is done with long sequences."""
        return resolve_policy(self.recipe.long_sequences, self.recipe.max_length, self.model)

    @property
    def resolved(self) -> dict[str, str]:
        """What later steps need to know of this run, as keys of their model_config."""
        names = {"precision": self.recipe.precision, "kernels": self.recipe.kernels}
        return {"checkpoint_key": self.checkpoint_key} | names

    def start_loading(self, load: Callable[[], Loaded]) -> Callable[[], Loaded]:
        """Begin to load the model if it goes to a GPU; return a function that returns the model.

        load: returns the model, and a tokenizer. For a GPU it runs in a thread, and the returned
        function waits for it, and raises its error. A CPU is no sooner done with a thread more:
        the returned function is `load`.
        """
        if self.device.type == "cpu":
            return load
        # The process ends only after the thread: to end within a call of CUDA could crash.
        return ThreadPoolExecutor(1, "load").submit(load).result

    def load_batches(
        self,
        index_path: Path,
        rows: Sequence[int],
        manifest: CheckpointManifest,
        convert: Encode,
        tracker: FailureTracker,
    ) -> tuple[BatchLoader, int, int]:
        """Return a loader of the batches of `rows`, their tokens, and for how many they have room.

        rows: the rows of the shard to compute, ascending; no other row is in a batch. Each suspect
        has a batch of its own. convert: turns the residues of sequences into token ids.
        """
        policy, token_budget = self.policy, manifest.token_budget
        tracker.start(rows, self.weights.require)
        own = np.array(rows, np.int64)
        tokens = self.shard.tokens[own]
        passes, last = policy.passes(tokens, token_budget), policy.last_pass(tokens, token_budget)
        plan = plan_batches(last, token_budget, passes > 1)
        boundaries, batches = put_suspects_first(plan, own, tracker.suspects)
        at_once = policy.windows_a_pass(token_budget)
        planned = plan_passes(boundaries, batches, passes, at_once)
        digests = self.shard.digests
        dataset = IndexBasedDataset(index_path, digests, own, boundaries, planned, at_once)
        collator = VarlenCollator(convert, policy, self._filling)
        loader = create_async_dataloader(dataset, collator, self.device)
        counts = policy.model_tokens(tokens)
        sums = np.diff(np.append(0, counts.cumsum())[boundaries])[batches]
        room = self._measure_room(sums, passes[boundaries[batches]], token_budget)
        return loader, int(sums.sum()), room

    def _measure_room(
        self, sums: NDArray[np.int64], passes: NDArray[np.int64], token_budget: int
    ) -> int:
        """Return for how many tokens b batches have room, and log how full they are.

        sums: (b,) their tokens. passes: (b,) how many each takes.
        """
        block, full = self._filling.block, self._filling.rows(token_budget)
        if token_budget % block:
            self.logger.warning(
                "token_budget %s: a GPU computes whole blocks of %s rows for this model, and the "
                "rest of each is computed in vain; set `token_budget: auto`, or a multiple of %s",
                *(f"{number:,}" for number in (token_budget, block, block)),
            )
        # A batch over the budget counts as full, but for what its last block lacks.
        room = int(np.maximum(whole_blocks(sums, block), passes * full).sum())
        if room:
            words = "%s batches are to be computed, filled to %.2f%%"
            self.logger.info(words, f"{len(sums):,}", 100 * sums.sum() / room)
        return room

    def open_tracker(
        self, folder: Path, index_path: Path, model_config: Mapping[str, Any]
    ) -> FailureTracker:
        """Return a tracker of the checkpoint folder's failures, and record the last worker's crash.

        model_config: `crash` is WorkerEnd.crash of the last worker; `began`, a function, is called
        once the crash is recorded; either may be missing. Raises WorkerCrashError if no batch was
        being computed, NotTheSequencesError if too many sequences in a row failed alone.
        """
        name_of, block = partial(read_id, index_path), self._filling.block
        # With plain steps, the biases of a longer sequence take more memory.
        even = self.recipe.kernels == FUSED
        digests = self.shard.digests
        tracker = FailureTracker(folder, digests, name_of, self.logger, block, even=even)
        tracker.record_crash(model_config.get("crash"))
        if began := model_config.get("began"):
            began()
        return tracker

    def open_runner(
        self,
        model: nn.Module,
        tracker: FailureTracker,
        load_fp32: Callable[[], Loaded],
        manifest: CheckpointManifest,
        batches: int,
    ) -> AsyncInferenceRunner:
        """Return a runner for batches; start to check the weights in the background.

        load_fp32: returns the model in fp32, and a tokenizer. batches: how many there will be.
        """
        token_budget, encoder = manifest.token_budget, cast(Encoder, model)
        self.weights.start()
        free, threads = free_memory(self.device), self.settings.threads
        token_bytes = bytes_a_token(self.model.architecture, self._dtype.itemsize)
        # A batch of several blocks has no graph.
        usable = tracker.allows_graphs and token_budget <= self._filling.block
        graphs = open_graphs(encoder, self._filling.block, self.logger) if usable else None
        at_once = 1
        if self.device.type == "cpu":
            # With fewer batches than threads, each batch gets several threads.
            at_once = cpu_streams(token_bytes, token_budget, min(threads, batches), free)
        words = "at most %s tokens a batch, %s at once; they need about %.1f GB of %.1f GB free%s"
        # Graphs keep the memory of one batch, and a batch without a graph needs as much beside.
        tokens = (at_once + bool(graphs)) * self._filling.rows(token_budget)
        sizes = tokens * token_bytes / 1e9, free / 1e9
        noted = ", with CUDA graphs" if graphs else ""
        self.logger.info(words, f"{token_budget:,}", at_once, *sizes, noted)
        self._log_longest(token_budget)
        return AsyncInferenceRunner(
            encoder,
            self.device,
            self._outputs,
            tracker,
            lambda: cast(Encoder, load_fp32()[0]),
            token_budget=token_budget,
            streams=at_once,
            threads=threads,
            graphs=graphs,
        )

    def _log_longest(self, token_budget: int) -> None:
        if (longest := self.policy.longest_read(self.shard.tokens)) > token_budget:
            rows, kernels = self._filling.rows(longest), self.recipe.kernels
            alone = bytes_alone(self.model.architecture, self._dtype.itemsize, rows, kernels)
            words = "what is longer is computed alone; the longest, of %s tokens, needs %.1f GB"
            self.logger.info(words, f"{longest:,}", alone / 1e9)

    @property
    def _outputs(self) -> Outputs:
        return Outputs(
            pooling=self.recipe.pooling,
            specials=self.model.facts.specials,
            pools_specials=self.model.facts.pools_specials,
            per_residue=self.recipe.per_residue,
            storage=self.recipe.storage,
        )

    @property
    def _filling(self) -> Filling:
        return choose_filling(self.device, self.model.architecture.width, self._dtype)

    @property
    def _dtype(self) -> torch.dtype:
        return DTYPES[self.recipe.precision]

    def open_writer(
        self,
        folder: Path,
        config: Mapping[str, Any],
    ) -> CheckpointWriter:
        """Return a writer of the shard's rows into the checkpoint folder.

        config: its checkpoint_seq_threshold and checkpoint_time_threshold say after how many
        sequences or seconds a block is due.
        """
        return CheckpointWriter(
            folder,
            digests=self.shard.digests,
            flags=self.policy.flags(self.shard.tokens),
            per_residue=self.recipe.per_residue,
            sequences=config["checkpoint_seq_threshold"],
            seconds=config["checkpoint_time_threshold"],
            check=self.weights.require,
            # A GPU would soon wait for batches.
            background=self.device.type == "cuda",
        )

    def open_taker(self, folder: Path, finished: Collection[str]) -> RowTaker:
        """Return what takes rows of other files; finished: the hex digests of the folder's own."""
        digests, recipe = self.shard.digests, self.recipe.fingerprint
        return RowTaker(folder, digests, finished, recipe, self.logger)

    def manifest(
        self, earlier: CheckpointManifest | None, device_names: Sequence[str] = ()
    ) -> CheckpointManifest:
        """Return this run's manifest; the earlier token budget stays unless the user set another.

        device_names: the GPUs that computed rows of other files. Raises CheckpointError if the
        earlier manifest is not of this recipe and shard.
        """
        check_same(earlier, self.recipe, self.shard)
        budget = self.settings.token_budget
        if budget == "auto":
            if earlier:
                budget = earlier.token_budget
            elif self.device.type == "cpu":
                budget = TOKENS["cpu"]
            else:
                # A smaller batch is filled up to a block: it would need as much time and memory.
                budget = self._filling.block
        names = join_names([earlier.device_name if earlier else "", *device_names])
        device_name = add_name(self.device, names)
        return make_manifest(self.model, self.recipe, self.shard, budget, device_name)


def open_run(
    index_path: Path, output_dir: Path, model_config: Mapping[str, Any], logger: logging.Logger
) -> Run:
    """Read a worker's settings and files, resolve every `auto`, and set this process's limits.

    The arguments are gpu_worker's. Raises a SeqembedError that says why the worker cannot run.
    """
    settings, environment = read_settings(model_config), EnvConfig.from_environ(os.environ)
    keep_products_equal(os.environ)
    raise_open_file_limit()
    torch.set_num_threads(settings.threads)
    # If the supervisor chose the CPU, the supervisor left the variable empty and logged why.
    on_cpu = settings.device == "auto" and environment.visible_devices == ""
    device = choose_device("cpu" if on_cpu else settings.device, logger)
    # A CPU's threads compute batches while the next batch is encoded.
    limit_tokenizer_threads(os.environ, settings.threads if device.type == "cuda" else 1)
    model = read_prepared(settings.model)
    recipes = output_dir.parent / "recipes"
    recipe = choose_recipe(recipes, settings, model, device, environment, logger)
    shard = read_shard_index(index_path)
    words = (model.name, device, recipe.precision, recipe.kernels, recipe.fingerprint[:12])
    logger.info("model %s on %s, %s, kernels %s, recipe %s", *words)
    run = Run(
        settings=settings,
        device=device,
        model=model,
        recipe=recipe,
        shard=shard,
        weights=WeightsCheck(settings.model, model),
        logger=logger,
    )
    run.policy.refuse(shard.tokens, "tokens")
    return run
