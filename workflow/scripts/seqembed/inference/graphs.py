"""Compute the rows of small models by CUDA graphs.

A pass of a small model waits for the CPU, which launches some 20 kernels a layer. A graph holds the
kernels of one pass, captured once, and the CPU launches it in one call. The kernels are those of
the pass, so the rows have the same bits; the first rows of each graph are compared.

A graph's shapes are fixed: how many rows there are, how many sequences, and up to which length
attention looks. So batches are sorted into buckets. A bucket has room for some number of sequences,
of which those that a batch lacks are of length 0, and for sequences up to some length.

All graphs share the memory of one pass. This is safe because no graph needs what another has left
there: they run one after the other on one stream, and the last kernel of each copies the rows into
a tensor outside of that memory. The next graph overwrites this tensor, too. So the rows must be
read on the same stream, before the next call.

Graphs are dropped all at once: with one graph, PyTorch gives back memory that its products share
with the other graphs of its stream (pytorch#193402).

No GPU has run this module yet.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from logging import Logger

import torch
from torch import Tensor

from seqembed.kernels.names import FUSED
from seqembed.models.encoders.attention import Packing
from seqembed.models.encoders.encoder import Encoder

# Wider models have no graphs; ESM-2 with 8, 35 and 150 million parameters has. A CPU beside an H200
# took 450 us to launch the kernels of a layer (measured, before some were fused). The matrix
# products of a layer take about 240 us there at this width, and 940 us at 1280, the next of ESM-2
# (computed from the 684 TFLOP/s that products reach): such a model does not wait for the CPU.
WIDEST = 640
# The least length of a bucket: attention takes this many queries at once.
SHORTEST = 128

# Takes a function that queues kernels on a GPU; returns one that queues the same kernels again.
Capture = Callable[[Callable[[], object]], Callable[[], object]]
# For how many sequences, and up to which length in tokens, a graph has room.
Bucket = tuple[int, int]


class GraphError(Exception):
    """A graph gives other rows than a pass without a graph."""


class CudaCapture:
    """Captures CUDA graphs that share memory; called with a function, returns the graph's launch.

    The function must neither wait for the GPU nor copy to or from the CPU. stream: where captures
    are made; the products' library takes memory for each stream, and PyTorch 2.11 keeps it.
    """

    def __init__(self, stream: torch.cuda.Stream) -> None:
        self._stream, self._pool = stream, torch.cuda.graph_pool_handle()

    def __call__(self, work: Callable[[], object]) -> Callable[[], object]:
        # What is done once must not be captured, such as to compile and to load kernels.
        self._run(work)
        graph = torch.cuda.CUDAGraph()
        # If torch.cuda.graph fails at its end, it leaves its stream as the current one.
        with torch.cuda.stream(self._stream):
            # The loader's thread takes page-locked memory meanwhile, and another waits for rows.
            # CUDA's default mode forbids that to all threads, and fails them or the capture.
            mode = "thread_local"
            with torch.cuda.graph(graph, self._pool, self._stream, capture_error_mode=mode):
                work()
        return graph.replay

    def _run(self, work: Callable[[], object]) -> None:
        """Run the function on the stream; whatever is queued on the current one waits for it."""
        current = torch.cuda.current_stream(self._stream.device)
        self._stream.wait_stream(current)
        try:
            with torch.cuda.stream(self._stream):
                work()
        finally:
            # After an error, too: what this stream still reads is soon given to others.
            current.wait_stream(self._stream)


class EncoderGraphs:
    """Calls an encoder, by a graph if there is one for the batch.

    rows: only batches of this many tokens have graphs. make_capture: is called for the first graph,
    and for the first after `drop`. A bucket's first batch is computed without a graph, so that a
    short run does not wait for captures. After a failure no batch is computed by a graph any more,
    and a warning says why.
    """

    def __init__(
        self, model: Encoder, rows: int, logger: Logger, make_capture: Callable[[], Capture]
    ) -> None:
        self._model, self._rows = model, rows
        self._logger, self._make_capture = logger, make_capture
        self._failed = False
        # Of the rows that the model returned last.
        self._dtype = torch.float32
        self._graphs: _Graphs | None = None
        self._seen: set[Bucket] = set()

    def drop(self) -> None:
        """Give the memory of all graphs back to PyTorch's allocator."""
        if self._graphs is not None:
            self._graphs.wait()
        self._graphs = None
        self._seen.clear()

    def __call__(self, tokens: Tensor, packing: Packing) -> Tensor:
        """Return the rows of a batch, (T, width), which the next call overwrites.

        The rows must be read on the stream of the calls. tokens, packing: as in Encoder.forward.
        """
        rows = None
        if packing.total == self._rows and not self._failed:
            bucket = choose_bucket(packing)
            if bucket in self._seen:
                rows = self._run_graph(bucket, tokens, packing)
            self._seen.add(bucket)
        if rows is None:
            rows = self._model(tokens, packing)
            self._dtype = rows.dtype
        return rows

    def _run_graph(self, bucket: Bucket, tokens: Tensor, packing: Packing) -> Tensor | None:
        """Return the rows of a batch by the bucket's graph; None if that fails."""
        try:
            if self._graphs is None:
                capture = self._make_capture()
                self._graphs = _Graphs(self._model, self._rows, self._dtype, capture)
            return self._graphs.run(bucket, tokens, packing)
        except Exception as error:  # noqa: BLE001 (most likely memory; a batch can do without)
            # If a capture fails, its end fails, too, and says less.
            cause = error.__context__ or error
            reason = f"{type(cause).__name__}: {cause}".partition("\n")[0]
            del cause
        # Not in the clause above, whose error holds the memory of what failed. If the GPU itself
        # has failed, this raises its error.
        self.drop()
        self._failed = True
        words = "CUDA graphs failed (%s): no graph is used until this worker ends"
        self._logger.warning(words, reason)
        return None


class _Graphs:
    """The graphs of a model, and the tensors that they read and write.

    dtype: of the rows that the model returns.
    """

    def __init__(self, model: Encoder, rows: int, dtype: torch.dtype, capture: Capture) -> None:
        weight = next(model.parameters())
        self._model, self._capture = model, capture
        self._tokens = torch.empty(rows, dtype=torch.int64, device=weight.device)
        self._rows = weight.new_empty(rows, model.architecture.width, dtype=dtype)
        # By bucket: the cu_seqlens that its graph reads, and the launch of its graph.
        self._bounds: dict[Bucket, Tensor] = {}
        self._launches: dict[Bucket, Callable[[], object]] = {}

    def run(self, bucket: Bucket, tokens: Tensor, packing: Packing) -> Tensor:
        """Return the rows of a batch of the bucket, in a tensor that the next run overwrites.

        Raises GraphError if a new graph gives other bits than a pass without a graph.
        """
        bounds = self._set_inputs(bucket, tokens, packing.cu_seqlens)
        if bucket in self._launches:
            self._launches[bucket]()
            return self._rows
        launch = self._capture(partial(self._compute, bounds, bucket[1]))
        launch()
        expected = self._model(tokens, packing)
        # As bytes: NaN is not equal to itself.
        if not torch.equal(self._rows.view(torch.uint8), expected.view(torch.uint8)):
            raise GraphError("a graph gave other rows")
        self._launches[bucket] = launch
        return self._rows

    def wait(self) -> None:
        """Wait until the GPU has computed all that is queued: it may be running a graph.

        With PyTorch's `expandable_segments`, memory is taken back without waiting for the stream.
        """
        if self._rows.is_cuda:
            torch.cuda.synchronize(self._rows.device)

    def _set_inputs(self, bucket: Bucket, tokens: Tensor, cu_seqlens: Tensor) -> Tensor:
        """Write what the bucket's graph reads; return its cu_seqlens."""
        if bucket not in self._bounds:
            self._bounds[bucket] = cu_seqlens.new_empty(bucket[0] + 1)
        bounds, count = self._bounds[bucket], len(cu_seqlens)
        self._tokens.copy_(tokens)
        bounds[:count].copy_(cu_seqlens)
        bounds[count:].fill_(len(tokens))
        return bounds

    def _compute(self, bounds: Tensor, longest: int) -> None:
        # A new Packing for each call: it keeps the positions, which every pass has to compute.
        packing = Packing(bounds, len(self._tokens), longest)
        self._rows.copy_(self._model(self._tokens, packing))


def choose_bucket(packing: Packing) -> Bucket:
    """Return the bucket of a batch: its count and longest length, rounded up to powers of two.

    In 20,000 proteins, batches of 16,384 tokens are of 7 buckets. With lengths in steps of 128
    there would be 12, each captured once. Attention starts 1.5 times as many blocks of queries as
    without buckets, with those steps 1.3 times; the spare ones end at once. (All counted.)
    """
    slots = _next_power_of_two(len(packing.cu_seqlens) - 1)
    return slots, max(_next_power_of_two(packing.longest), SHORTEST)


def _next_power_of_two(number: int) -> int:
    """Return the least power of two that is not below `number`, which is at least 1."""
    return 1 << (number - 1).bit_length()


def open_graphs(model: Encoder, rows: int, logger: Logger) -> EncoderGraphs | None:
    """Return the graphs of a model on a GPU; None if it has none.

    rows: how many tokens the batches have that get graphs.
    """
    # With the plain steps, attention may read on the CPU where sequences lie.
    if model.kernels != FUSED or model.architecture.width > WIDEST:
        return None
    device = next(model.parameters()).device
    # Made for the first capture, and kept.
    stream = cache(partial(torch.cuda.Stream, device))
    return EncoderGraphs(model, rows, logger, lambda: CudaCapture(stream()))
