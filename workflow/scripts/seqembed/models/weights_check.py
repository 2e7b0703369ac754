"""Read a model's weights once more, whole, beside the first batches."""

from __future__ import annotations

from pathlib import Path
from threading import Thread

from seqembed.errors import ModelError
from seqembed.models.prepared import PreparedModel, error_of_change, sha256_of
from seqembed.models.source import list_weight_files


class WeightsCheck:
    """Check in a thread whether the weights have the checksum with which they were prepared.

    Size and times do not show that a disk errs, and a checksum of many gigabytes would hold up
    every start. So it is computed beside the first batches, and required before the first result
    is written. path: of `{model}.json`.
    """

    def __init__(self, path: Path, model: PreparedModel) -> None:
        self._path, self._model = path, model
        self._error: ModelError | None = None
        self._thread: Thread | None = None

    def start(self) -> None:
        """Begin to read; a process that ends does not wait for it."""
        self._thread = Thread(target=self._read, name="weights check", daemon=True)
        self._thread.start()

    def require(self) -> None:
        """Wait for what was started; raise ModelError unless the weights are those prepared."""
        if self._thread:
            self._thread.join()
        if self._error:
            raise self._error

    def _read(self) -> None:
        weights = Path(self._model.weights)
        try:
            if sha256_of(*list_weight_files(weights)) != self._model.sha256:
                self._error = error_of_change(self._model, self._path)
        except (OSError, ModelError) as error:
            message = f"cannot be read again ({error}); see that it can be read and run again"
            self._error = ModelError(f"{weights}: {message}")
