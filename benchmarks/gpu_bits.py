"""Whether a sequence's token rows depend on its batch, by a bit, and how exact each precision is.

`--check compositions`: some sequences are embedded again and again, with other neighbours, in other
orders and in batches of other sizes; one of them is longer than the smallest batch. `--check
accuracy`: mean rows in fp16 and bf16 against fp32 on the same device, and fp32 on it against a CPU.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from typing import Any

import gpu_library
import torch
from contestants import Scene
from gpu_scene import emit, open_scene, parse, parser
from shapes import Family
from torch import Tensor

BUDGETS = {"cuda": (2048, 8192, 32768), "cpu": (256, 1024)}
SEED = 20260801
# How many sequences are watched, and how often each is compared.
WATCHED, ROUNDS = 40, 10
# Watched: as short and as long as sequences are, and one that is over the smallest budget.
LENGTHS = (3, 4, 17, 64, 127, 128, 129, 255, 256, 257, 511, 512, 513, 1023, 1024)
NEIGHBOURS = (3, 1024)
# Sequences whose precisions are compared, and those that a CPU computes, too.
COMPARED = {"cuda": (512, 4), "cpu": (16, 4)}

# How far a precision's mean rows may be apart from exact ones, at a root mean square of 1.
BOUNDS = {"fp16": 5e-3, "fp32": 1e-4}
# Some random models' rows are farther off: on a CPU, DNABERT-S's by up to 5.7e-3, and Ankh large's
# of three residues by 5.9e-3.
WIDER = ("dnabert_s", "ankh")
WIDER_BOUNDS = BOUNDS | {"fp16": 1e-2}
COSINES = {"fp16": 0.999999, "fp32": 0.99999}
# Ankh large's rows of 30 to 46 tokens are off by up to 9.1e-7, on a CPU.
WIDER_COSINES = COSINES | {"fp16": 0.999998}
# How much farther from fp32 than plain steps fused ones may be.
WORSE = 1.1


def watched_sequences(smallest_budget: int, family: Family) -> list[Tensor]:
    choice = random.Random(SEED)
    lengths = [*LENGTHS, smallest_budget + 100]
    lengths += [choice.randint(*NEIGHBOURS) for _ in range(WATCHED - len(lengths))]
    return random_sequences(lengths, family)


def random_sequences(lengths: Sequence[int], family: Family) -> list[Tensor]:
    return [gpu_library.random_sequence(n, seed, family) for seed, n in enumerate(lengths)]


def compose(
    choice: random.Random, watched: Sequence[Tensor], budget: int, family: Family
) -> Iterator[list[tuple[int, Tensor]]]:
    """Yield batches of random order that together hold every watched sequence once.

    Half of a batch's tokens are watched sequences, or one of them; random neighbours fill it up. A
    batch is a list of pairs: which of `watched` a sequence is, -1 for a neighbour, and its tokens.
    """
    left = choice.sample(range(len(watched)), len(watched))
    while left:
        batch = [(left[-1], watched[left.pop()])]
        filled = len(batch[0][1])
        while left and filled + len(watched[left[-1]]) <= budget // 2:
            batch.append((left[-1], watched[left.pop()]))
            filled += len(batch[-1][1])
        while filled + NEIGHBOURS[1] <= budget:
            length, seed = choice.randint(*NEIGHBOURS), choice.getrandbits(30)
            batch.append((-1, gpu_library.random_sequence(length, seed, family)))
            filled += length
        choice.shuffle(batch)
        yield batch


def rows_of(model: Any, sequences: Sequence[Tensor]) -> list[Tensor]:
    """The token rows of each sequence of a batch, (length, D) on the model's device."""
    tokens, packing = gpu_library.pack(sequences, model)
    lengths = [*map(len, sequences)]
    rows: Tensor = model(tokens, packing)
    return list(rows[: sum(lengths)].split(lengths))


def check_compositions(scene: Scene) -> bool:
    model = load(scene, scene.precision, scene.device)
    budgets, choice = BUDGETS[scene.device], random.Random(SEED)
    family = scene.shape.family
    watched = watched_sequences(budgets[0], family)
    expected: dict[int, Tensor] = {}
    equal = compared = batches = 0
    apart = 0.0
    for number in range(ROUNDS + 1):
        for batch in compose(choice, watched, budgets[number % len(budgets)], family):
            batches += 1
            found = rows_of(model, [tokens for _, tokens in batch])
            for (own, _), rows in zip(batch, found, strict=True):
                if own < 0:
                    continue
                if own not in expected:
                    expected[own] = rows.clone()
                    continue
                compared += 1
                equal += torch.equal(rows, expected[own])
                apart = max(apart, float((rows - expected[own]).abs().max()))
        counts = {"batches": batches, "compared": compared, "equal": equal, "apart": apart}
        if number + 1 >= len(budgets):
            # All sizes of batches were compared, and the program may be stopped before it ends.
            names = {"shape": scene.shape_name, "precision": scene.precision}
            emit("compositions", **names, budgets=budgets, **counts)
    return equal == compared


def load(scene: Scene, precision: str, device: str, kernels: str | None = None) -> Any:
    return gpu_library.load_encoder(scene.folder / "model.json", precision, device, kernels)


def mean_rows(model: Any, sequences: Sequence[Tensor], budget: int = 8192) -> Tensor:
    """The mean rows of all sequences, (N, D) float32 on the CPU."""
    means: list[Tensor] = []
    for start, stop in gpu_library.cut_batches([*map(len, sequences)], budget):
        means += [rows.float().mean(0).cpu() for rows in rows_of(model, sequences[start:stop])]
    return torch.stack(means)


def distance(found: Tensor, expected: Tensor) -> dict[str, float]:
    cosines = torch.cosine_similarity(found.double(), expected.double())
    return {
        "max_abs": float((found - expected).abs().max()),
        "rms_apart": float((found - expected).square().mean().sqrt()),
        "rms": float(expected.square().mean().sqrt()),
        "cosine_min": float(cosines.min()),
        "sequences": len(found),
    }


def check_accuracy(scene: Scene) -> bool:
    count, few = COMPARED[scene.device]
    choice = random.Random(SEED)
    lengths = [round(min(max(300 * choice.lognormvariate(0, 0.7), 3), 1024)) for _ in range(count)]
    sequences = random_sequences(lengths, scene.shape.family)
    exact = mean_rows(load(scene, "fp32", scene.device), sequences)
    good = []
    for precision in ("fp16", "bf16"):
        apart = []
        for kernels in gpu_library.kernels_of(scene.device):
            model = load(scene, precision, scene.device, kernels)
            found = distance(mean_rows(model, sequences), exact)
            names = {"precision": precision, "kernels": kernels, "against": "fp32, same device"}
            good.append(emit_accuracy(scene, names, found))
            apart.append(found["rms_apart"])
        # The fused steps, and the plain ones beside them.
        good.append(apart[0] <= WORSE * apart[-1])
    on_cpu = mean_rows(load(scene, "fp32", "cpu"), sequences[:few])
    found = distance(exact[:few], on_cpu)
    good.append(emit_accuracy(scene, {"precision": "fp32", "against": "fp32, CPU"}, found))
    return all(good)


def emit_accuracy(scene: Scene, names: dict[str, str], found: dict[str, float]) -> bool:
    """Print how far rows are apart; return whether that is within the precision's bound."""
    wider, precision = scene.shape.family in WIDER, names["precision"]
    bound = (WIDER_BOUNDS if wider else BOUNDS).get(precision)
    cosine = (WIDER_COSINES if wider else COSINES).get(precision, 0)
    near = bound is None or found["max_abs"] <= bound * found["rms"]
    within = near and found["cosine_min"] >= cosine
    emit("accuracy", shape=scene.shape_name, **names, **found, bound=bound, within=within)
    return within


CHECKS = {"compositions": check_compositions, "accuracy": check_accuracy}


@torch.inference_mode()
def main() -> None:
    made = parser(__doc__)
    made.add_argument("--check", choices=CHECKS, required=True)
    options = parse(made)
    # On a CPU, threads may change last bits of products this small.
    torch.set_num_threads(1 if options.device == "cpu" else options.threads)
    if not CHECKS[options.check](open_scene(options)):
        raise SystemExit(f"{options.check}: not as it should be; see the findings")


if __name__ == "__main__":
    main()
