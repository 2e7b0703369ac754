"""Choose a dataset's recipe: the first worker resolves it for its device, the others adopt it."""

from __future__ import annotations

from dataclasses import asdict, replace
from functools import partial
from logging import Logger
from pathlib import Path

import torch

from seqembed.environment import EnvConfig
from seqembed.errors import RecipeError
from seqembed.kernels.choice import choose_kernels
from seqembed.kernels.names import PLAIN
from seqembed.models.prepared import PreparedModel
from seqembed.models.trial import begin_trial
from seqembed.settings.precision import DTYPES, resolve_precision
from seqembed.settings.recipe import (
    Recipe,
    find_recipe,
    publish_recipe,
    read_recipe,
    recipe_path,
    resolve_fields,
)
from seqembed.settings.request import Request, WorkerSettings


def choose_recipe(
    folder: Path,
    settings: WorkerSettings,
    model: PreparedModel,
    device: torch.device,
    environment: EnvConfig,
    logger: Logger,
) -> Recipe:
    """Return the recipe of this worker as adopt_recipe does, with the kernels that can be used."""
    request, kernels = settings.request, PLAIN
    found = find_recipe(recipe_path(folder, request, model))
    # All workers take the plain steps if the first one did, and compute in its precision.
    if found is None or found.kernels != PLAIN:
        own = resolve_precision(request.precision, device, environment, model.facts.half)
        precision = found.precision if found else own
        trial = partial(begin_trial, model.architecture, DTYPES[precision], device)
        kernels = choose_kernels(device, settings.model.parent.parent / "triton", logger, trial)
    return adopt_recipe(folder, request, model, device, environment, kernels)


def adopt_recipe(
    folder: Path,
    request: Request,
    model: PreparedModel,
    device: torch.device,
    environment: EnvConfig,
    kernels: str = PLAIN,
) -> Recipe:
    """Return the recipe of this request and model from `folder`; write it there if it is missing.

    kernels: PLAIN or FUSED, the steps that this worker would take; a worker that would take the
    fused steps takes the plain ones if the recipe says so.

    The first worker resolves each `auto` for its model and device and writes the recipe's file; all
    other workers use that recipe, so that all rows of a dataset have the same. Raises RecipeError
    if the file is damaged, or if this worker would compute something else; DeviceError if the
    device cannot compute in the precision of the request or of the file; and ConfigError if
    resolve_fields raises it, or if fp16 is asked for and SEQEMBED_DISABLE_FP16 forbids it.
    """
    path, fields = recipe_path(folder, request, model), resolve_fields(request, model)
    precision = resolve_precision(request.precision, device, environment, model.facts.half)
    own = Recipe(**fields | {"precision": precision, "device": device.type, "kernels": kernels})
    if publish_recipe(own, path):
        return own
    found = read_recipe(path)
    # The first worker may have resolved `precision: auto` on another device than this worker's.
    same = replace(own, precision=found.precision) if request.precision == "auto" else own
    same = replace(same, kernels=PLAIN) if found.kernels == PLAIN else same
    for name, value in asdict(same).items():
        if (other := getattr(found, name)) != value:
            message = f"{path}: {name} is {other!r}, but this worker would use {value!r}"
            advice = f"to compute all rows with {name} {value!r}, remove the file and run again"
            raise RecipeError(f"{message}; {advice}")
    resolve_precision(found.precision, device, environment, model.facts.half)
    return found
