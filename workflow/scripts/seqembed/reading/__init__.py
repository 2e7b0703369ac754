"""Read an embeddings.h5 from a notebook or a script, without PyTorch and without Snakemake."""

from seqembed.errors import ResultError, SeqembedError, UnknownIdError
from seqembed.reading.result import Result, open_result

__all__ = ["Result", "ResultError", "SeqembedError", "UnknownIdError", "open_result"]
