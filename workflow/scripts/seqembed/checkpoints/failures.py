"""What failed in a shard and what was learnt of it: a file beside its checkpoints."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass, field
from pathlib import Path

from seqembed.errors import CheckpointError
from seqembed.storage.json_files import read_json, write_json

FORMAT_VERSION = "1"
FAILURES = "failures.json"


@dataclass(frozen=True, kw_only=True)
class Suspect:
    """Rows `first` to `last` of a shard, of which one at least may be what failed.

    failed: whether it failed alone already. tries: how often it did so before anything else in a
    fresh process. memory: it was the memory that did not suffice.
    """

    first: int
    last: int
    reason: str
    failed: bool = False
    tries: int = 0
    memory: bool = False

    @property
    def alone(self) -> bool:
        """Whether it is one sequence."""
        return self.first == self.last


@dataclass(frozen=True, kw_only=True)
class LoneFailure:
    """A sequence, by hex digest, that failed alone since anything passed last."""

    digest: str
    memory: bool


@dataclass(kw_only=True)
class Failures:
    """What a shard's runs learnt.

    token_limit: tokens that a step may hold, None while none ran out of memory. quarantined: hex
    digests of sequences that are given up, with the reason.
    """

    token_limit: int | None = None
    suspects: list[Suspect] = field(default_factory=list)
    quarantined: dict[str, str] = field(default_factory=dict)
    doubts: list[LoneFailure] = field(default_factory=list)


def read_failures(folder: Path) -> Failures:
    """A folder's failures, none where no file is; raises CheckpointError for a damaged one."""
    path = folder / FAILURES
    if not os.path.lexists(path):
        return Failures()
    try:
        content = read_json(path, "failures", FORMAT_VERSION)
        return Failures(
            token_limit=content["token_limit"],
            suspects=[Suspect(**suspect) for suspect in content["suspects"]],
            quarantined=_digests_with_reasons(content["quarantined"]),
            doubts=[LoneFailure(**doubt) for doubt in content["doubts"]],
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{path}: damaged ({error!r}); remove it") from error


def write_failures(folder: Path, failures: Failures) -> None:
    """Write `failures.json` durably."""
    write_json(folder / FAILURES, "failures", FORMAT_VERSION, asdict(failures))


def _digests_with_reasons(content: dict[str, str]) -> dict[str, str]:
    for digest, reason in content.items():
        if len(bytes.fromhex(digest)) != 16 or not isinstance(reason, str):
            raise ValueError(f"{digest!r} is no digest with a reason")
    return dict(content)
