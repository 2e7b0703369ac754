"""What a worker will resolve each `auto` to, expected without PyTorch and before any worker ran."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Literal

from seqembed.environment import EnvConfig
from seqembed.errors import DeviceError
from seqembed.kernels.names import FUSED, PLAIN
from seqembed.machine.devices import Device, choose_candidates, find_gpus
from seqembed.models.prepared import PreparedModel
from seqembed.settings.recipe import Recipe, find_recipe, recipe_path, resolve_fields
from seqembed.settings.request import Request

Asked = Literal["auto", "cuda", "cpu"]
Kind = Literal["cuda", "cpu"]


def list_allowed(environment: EnvConfig) -> Sequence[Device]:
    """Return the GPUs of this machine that CUDA_VISIBLE_DEVICES allows, in its order.

    If that variable names none of them, which a worker refuses, all are returned.
    """
    gpus = find_gpus()
    with suppress(DeviceError):
        return choose_candidates(gpus, environment.visible_devices) if gpus else []
    return gpus


def expect_device(asked: Asked, gpus: int) -> Kind:
    """Return where workers will compute; asked: `auto` is cuda if this machine has a GPU."""
    if asked == "auto":
        return "cuda" if gpus else "cpu"
    return asked


def expect_recipe(
    recipes: Path,
    request: Request,
    model: PreparedModel,
    asked: Asked,
    device: Kind,
    environment: EnvConfig,
) -> Recipe:
    """Return the recipe that the workers of a dataset will come to.

    recipes: the folder; a recipe that an earlier worker resolved there counts, unless the device
    is now set to another. A GPU is taken for one that computes in fp16 and has a compiler. Raises
    ConfigError as resolve_fields does.
    """
    found = find_recipe(recipe_path(recipes, request, model))
    if found and asked in ("auto", found.device):
        return found
    usual = model.facts.half if device == "cuda" and not environment.disable_fp16 else "fp32"
    fields = {"precision": usual} | resolve_fields(request, model)
    kernels = FUSED if device == "cuda" else PLAIN
    return Recipe(**fields | {"device": device, "kernels": kernels})
