"""What the machine makes of a model's matrix products alone: the peak that its speed is a share of.

The mean of the products, each for as long: on a shared machine the best of short looks would be
what nobody has for a whole run.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Sequence
from statistics import mean

import contest
import torch
from shapes import SHAPES, Shape

# As many as the tokens of a batch, unless `--rows` says otherwise.
ROWS = {"cpu": (2048, 4096), "cuda": (16384,)}
SECONDS = 0.4  # for each product
# How far products in fp32 may be off, as a share: in TF32, which is several times as fast, 5e-5.
FP32_ERROR = 1e-5


def measure(rows: int, columns: int, out: int, device: str, dtype: torch.dtype) -> float:
    """Floating-point operations a second of (rows, columns) times (columns, out)."""
    a = torch.rand(rows, columns).to(device, dtype)
    b = torch.rand(out, columns).to(device, dtype).T
    result = torch.mm(a, b)
    synchronise(device)
    count, begin = 0, time.perf_counter()
    while (seconds := time.perf_counter() - begin) < SECONDS:
        for _ in range(4):
            torch.mm(a, b, out=result)
        synchronise(device)
        count += 4
    return 2 * rows * columns * out * count / seconds


def measure_all(
    shape: Shape, rows: Sequence[int], device: str, dtype: torch.dtype
) -> dict[str, float]:
    """Return the speed of each of a layer's products but the smallest, by its name and rows."""
    return {
        f"{name}, {count} rows": measure(count, *sizes, device, dtype)
        for name, sizes in shape.products.items()
        if name != "out"
        for count in rows
    }


def keep_fp32(device: str) -> None:
    """Let products in fp32 be true fp32, as a worker does; raise SystemExit if they are not.

    Call this before the first product.
    """
    os.environ["NVIDIA_TF32_OVERRIDE"] = "0"
    torch.set_float32_matmul_precision("highest")
    a, b = (torch.rand(1024, 1024).to(device) for _ in range(2))
    error = float(((a @ b).double() / (a.double() @ b.double()) - 1).abs().max())
    if error > FP32_ERROR:
        raise SystemExit(f"products in fp32 are off by {error:.0e}: they are no true fp32")


def synchronise(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", choices=SHAPES, required=True)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--device", required=True)
    parser.add_argument("--precision", choices=contest.DTYPES, required=True)
    parser.add_argument("--rows", type=int, nargs="+", help="of a product's left matrix")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    dtype = contest.DTYPES[options.precision]
    rows = options.rows or ROWS[options.device]
    if options.precision == "fp32":
        keep_fp32(options.device)
    found = measure_all(SHAPES[options.shape], rows, options.device, dtype)
    figures = {"flops_per_second": mean(found.values()), "products": found}
    if options.device == "cuda":
        figures["device_name"] = torch.cuda.get_device_name()
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
