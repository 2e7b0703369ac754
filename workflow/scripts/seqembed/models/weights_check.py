"""Reads a model's weights once more, whole, beside the first batches."""

from __future__ import annotations

from pathlib import Path
from threading import Thread

from seqembed.errors import ModelError
from seqembed.models.prepared import PreparedModel, error_of_change, sha256_of
from seqembed.models.source import list_weight_files


class WeightsCheck:
    """Whether the weights still have the checksum with which they were prepared.

    No size and no time tells of a disk that errs, and to wait for a checksum of many gigabytes
    would hold up every start: it is computed in a thread of its own, and asked for before the
    first result is written. path: of `{model}.json`.
    """

    def __init__(self, path: Path, model: PreparedModel) -> None:
        self._path, self._model = path, model
        self._found: str | OSError | ModelError = ""
        self._thread: Thread | None = None

    def start(self) -> None:
        """Begin to read; a process that ends does not wait for it."""
        self._thread = Thread(target=self._read, name="weights check", daemon=True)
        self._thread.start()

    def require(self) -> None:
        """Wait for what was started; raises ModelError unless the weights are those prepared."""
        if self._thread is None:
            return
        self._thread.join()
        if isinstance(self._found, Exception):
            message = f"{self._model.weights}: cannot be read again ({self._found})"
            raise ModelError(f"{message}; see that it can be read and run again")
        if self._found != self._model.sha256:
            raise error_of_change(self._model, self._path)

    def _read(self) -> None:
        try:
            self._found = sha256_of(*list_weight_files(Path(self._model.weights)))
        except (OSError, ModelError) as error:
            self._found = error
