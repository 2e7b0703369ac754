"""The split of sequences of which some have rows already."""

from __future__ import annotations

import random
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from indexing import WHOLE, index_proteins, split_proteins, write_fasta
from known_sources import OTHER_RECIPES, RECIPE

from seqembed.errors import IndexFormatError
from seqembed.index import split
from seqembed.index.parquet import SHARD_SCHEMA
from seqembed.index.processing_order import arrange
from seqembed.index.reader import ShardIndex, read_shard_index, read_source_numbers
from seqembed.index.sources import Source, Sources, column_name, read_sources
from seqembed.settings.lengths import LengthPolicy

RECIPES = [RECIPE, OTHER_RECIPES["device"]]
POLICIES = [WHOLE, LengthPolicy(long_sequences="window", max_length=100)]
Find = Callable[[np.ndarray], Sources]


def make_sources(
    columns: Sequence[Sequence[int]], folders: Sequence[bool], seen: list[np.ndarray]
) -> Find:
    """Find sources as stated: the numbers of each recipe, and which sources are checkpoints."""

    def find(digests: np.ndarray) -> Sources:
        seen.append(digests)
        names = [recipe.fingerprint for recipe in RECIPES[: len(columns)]]
        listed = [
            Source(path=f"/{n}", seal="" if folder else f"SEQEMBED1 {n}", recipe=RECIPE.fingerprint)
            for n, folder in enumerate(folders)
        ]
        numbers = {name: np.array(c, np.int32) for name, c in zip(names, columns, strict=True)}
        recipes = dict(zip(names, RECIPES, strict=False))
        return Sources(sources=listed, columns=numbers, recipes=recipes)

    return find


def split_lengths(
    folder: Path, lengths: Sequence[int], world_size: int, policy: LengthPolicy = WHOLE, **how: Find
) -> tuple[Sources, list[Path]]:
    """Split distinct sequences of these lengths."""
    generator = random.Random(7)
    texts = ["".join(generator.choices("ACDEFGHIKLMNPQRSTVWY", k=n)) for n in lengths]
    fasta = write_fasta(folder, texts)
    index_proteins([fasta], folder / "index.parquet")
    paths = [folder / f"index/shard_{rank}.parquet" for rank in range(world_size)]
    return split_proteins(folder / "index.parquet", paths, policy=policy, **how), paths


def read_numbers(paths: Sequence[Path], number: int) -> list[np.ndarray]:
    found = [read_source_numbers(path, RECIPES[number].fingerprint) for path in paths]
    assert all(part is not None and part.dtype == np.int32 for part in found)
    return [part for part in found if part is not None]


# Lengths at which equal sequences are rare: a digit for each of them makes them distinct.
LENGTHS = st.lists(st.integers(8, 400), min_size=1, max_size=60)


@settings(max_examples=30)
@given(
    LENGTHS,
    st.integers(1, 5),
    st.sampled_from(POLICIES),
    st.lists(st.booleans(), min_size=1, max_size=4),
    st.integers(0, 2),
    st.data(),
)
def test_each_sequence_is_in_one_shard_with_its_sources(
    lengths, world_size, policy, folders, recipes, data
):
    count, numbers = len(lengths), st.integers(-1, len(folders) - 1)
    columns = [data.draw(st.lists(numbers, min_size=count, max_size=count)) for _ in range(recipes)]
    seen: list[np.ndarray] = []
    with tempfile.TemporaryDirectory() as name, pytest.MonkeyPatch.context() as patch:
        patch.setattr(split, "GROUP_BYTES", 1000)
        find = make_sources(columns, folders, seen)
        sources, paths = split_lengths(Path(name), lengths, world_size, policy, find=find)
        shards = list(map(read_shard_index, paths))
        rows = np.concatenate([shard.rows for shard in shards])
        assert sorted(rows.tolist()) == list(range(count)) and sources.distinct == count
        # The finder was asked once, for all sequences in their order.
        (asked,) = seen
        np.testing.assert_array_equal(
            np.concatenate([shard.digests for shard in shards]), asked[rows]
        )
        for number, column in enumerate(columns):
            held = read_numbers(paths, number)
            assert np.concatenate(held).tolist() == [column[row] for row in rows]
            left = [int((part < 0).sum()) for part in held]
            assert sources.left[RECIPES[number].fingerprint] == left
        stored = read_sources(Path(name) / "index")
        assert (stored.left, stored.recipes) == (sources.left, sources.recipes)
        assert stored.sources == sources.sources
    done = (np.array([*columns, [-1] * count]).max(0)) >= 0
    for shard in shards:
        _check_order(shard.rows, shard.tokens, done[shard.rows], policy)
    if recipes == 1:
        _check_folders(shards, columns[0], folders)


def _check_order(
    rows: np.ndarray, tokens: np.ndarray, done: np.ndarray, policy: LengthPolicy
) -> None:
    """First comes what is left, then what has rows; each part in the order of `arrange`."""
    assert done.tolist() == sorted(done.tolist())
    for part in (~done, done):
        mine, sizes = rows[part], tokens[part]
        longest_first = np.lexsort((mine, -sizes))
        expected = longest_first[arrange(sizes[longest_first], policy)]
        assert mine.tolist() == mine[expected].tolist()


def _check_folders(
    shards: Sequence[ShardIndex], column: Sequence[int], folders: Sequence[bool]
) -> None:
    """The rows of a checkpoint are read by one worker."""
    for number, folder in enumerate(folders):
        readers = [any(column[row] == number for row in shard.rows) for shard in shards]
        assert not folder or sum(readers) <= 1


@pytest.mark.parametrize("policy", POLICIES)
def test_shards_are_balanced_in_what_is_left(tmp_path, policy):
    """95 % of the rows are there: those of short sequences, of long ones, or of any."""
    generator = random.Random(3)
    lengths = sorted(int(generator.lognormvariate(5, 0.8)) + 8 for _ in range(3000))
    some = generator.sample(range(3000), 150)
    for name, left in {"long": range(2850, 3000), "short": range(150), "some": some}.items():
        column = [-1 if row in left else row % 3 for row in range(3000)]
        find = make_sources([column], [False, True, False], [])
        folder = tmp_path / name
        folder.mkdir()
        _, paths = split_lengths(folder, lengths, 4, policy, find=find)
        shards, held = map(read_shard_index, paths), read_numbers(paths, 0)
        costs = [
            _cost(shard.tokens[part < 0], policy) for shard, part in zip(shards, held, strict=True)
        ]
        assert max(costs) < 1.03 * np.mean(costs)


def _cost(tokens: np.ndarray, policy: LengthPolicy) -> float:
    read = policy.model_tokens(tokens)
    return float((read * (1 + read / policy.windows(tokens) / 3840)).sum())


def test_what_is_there_is_shared_too(tmp_path):
    """Results are read by all workers; of four checkpoints each reads one."""
    lengths = [100] * 80
    for name, folders in {"results": [False], "checkpoints": [True] * 4}.items():
        (tmp_path / name).mkdir()
        column = random.Random(2).sample([row % len(folders) for row in range(80)], 80)
        find = make_sources([column], folders, [])
        _, paths = split_lengths(tmp_path / name, lengths, 4, find=find)
        shards = list(map(read_shard_index, paths))
        assert [len(shard.rows) for shard in shards] == [20] * 4
        _check_folders(shards, column, folders)


# As the version before sources wrote them: these name the checkpoints of users.
EARLIER = {
    WHOLE: ["65dd3b5dcc0aabbd", "27efd1306511a45a", "7ec4fa8ee789823c"],
    POLICIES[1]: ["b5b543b2bffa7d04", "bdcdb00ddb086677", "7901676f02a3f1b8"],
}


@pytest.mark.parametrize("policy", EARLIER)
def test_without_sources_shards_are_as_they_always_were(tmp_path, policy):
    generator = random.Random(7)
    texts = ["".join(generator.choices("LWEK", k=generator.randrange(1, 900))) for _ in range(60)]
    index_proteins([write_fasta(tmp_path, texts)], tmp_path / "index.parquet")
    paths = [tmp_path / f"index/shard_{rank}.parquet" for rank in range(3)]
    sources = split_proteins(tmp_path / "index.parquet", paths, policy=policy)
    assert [read_shard_index(path).fingerprint[:16] for path in paths] == EARLIER[policy]
    for path in paths:
        assert pq.read_schema(path).names == SHARD_SCHEMA.names
        assert read_source_numbers(path, RECIPE.fingerprint) is None
    assert (sources.count, sources.distinct, dict(sources.left)) == (60, 60, {})


def test_a_column_of_sources_is_read_by_its_recipe_alone(tmp_path):
    find = make_sources([[0, -1]], [False], [])
    _, (path,) = split_lengths(tmp_path, [9, 20], 1, find=find)
    assert read_shard_index(path).rows.tolist() == [1, 0]
    assert read_source_numbers(path, RECIPE.fingerprint).tolist() == [-1, 0]
    assert read_source_numbers(path, RECIPES[1].fingerprint) is None
    content = path.read_bytes()
    name = column_name(RECIPE.fingerprint).encode()
    path.write_bytes(content[: content.rindex(name)])
    with pytest.raises(IndexFormatError, match=f"^{path}: "):
        read_source_numbers(path, RECIPE.fingerprint)
