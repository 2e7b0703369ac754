"""A worker's settings: the one form that `model_config` takes inside the library."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from seqembed.errors import ConfigError
from seqembed.settings.request import Request, check_choice


@dataclass(frozen=True, kw_only=True)
class WorkerSettings:
    """What a worker computes, and how. Raises ConfigError for what it cannot be.

    model: the JSON file that prepare_model wrote. token_budget: tokens a batch may hold.
    threads: of the CPU.
    """

    model: Path
    request: Request
    device: Literal["auto", "cuda", "cpu"]
    token_budget: Literal["auto"] | int
    threads: int
    log_path: Path

    def __post_init__(self) -> None:
        check_choice("device", self.device, ("auto", "cuda", "cpu"))
        if self.token_budget != "auto" and not _positive(self.token_budget):
            message = f"token_budget must be `auto` or a number from 1, not {self.token_budget!r}"
            raise ConfigError(message)
        if not _positive(self.threads):
            raise ConfigError(f"threads must be a whole number from 1, not {self.threads!r}")


def read_settings(model_config: Mapping[str, Any]) -> WorkerSettings:
    """Read the plain dict that a worker is given; raises ConfigError, naming the key."""
    try:
        return WorkerSettings(
            model=Path(model_config["model"]),
            request=Request(**model_config["embedding"]),
            device=model_config["device"],
            token_budget=model_config["token_budget"],
            threads=model_config["threads"],
            log_path=Path(model_config["log_path"]),
        )
    except (KeyError, TypeError) as error:
        raise ConfigError(f"model_config lacks or misnames a setting: {error}") from error


def _positive(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0
