"""What is wrong with the sequences is said before a GPU is asked for."""

from __future__ import annotations

import pytest
from driver import make_proteins, write_fasta


@pytest.fixture(scope="module")
def outcome(open_place, model, tmp_path_factory):
    """Two datasets, each with a fault of its own, in one run that keeps going."""
    place = open_place(tmp_path_factory.mktemp("refusals"))
    proteins = make_proteins(6)
    write_fasta(place.folder / "a.faa", proteins)
    write_fasta(place.folder / "b.faa", {"new": "MKV", "p3": "MKVLAT"})
    long = {f"long{size}": "MKVLATW" * size for size in (146, 147, 200)}
    write_fasta(place.folder / "long.faa", proteins | long)
    place.configure(
        datasets={
            "twice": {"fasta": ["a.faa", "b.faa"], "model": "esm2_random"},
            "long": {
                "fasta": "long.faa",
                "model": "esm2_random",
                "embedding": {"long_sequences": "error"},
            },
        },
        models={"esm2_random": model},
        device="cpu",
    )
    return place.run(ok=False)


def test_an_id_that_is_used_twice_is_named_with_both_places(outcome):
    (line,) = [line for line in outcome.said_by("index") if "already used" in line]
    for part in ("b.faa", "line 3", "'p3'", "a.faa, line 7", "`ids: file:header`"):
        assert part in line


def test_sequences_that_are_too_long_are_counted_and_the_key_is_named(outcome):
    (line,) = outcome.said_by("split")
    for part in ("2 of 9 sequences", "1,022 residues", "long147", "long_sequences: window"):
        assert part in line


def test_the_run_ends_with_what_went_wrong(outcome):
    end = outcome.text.partition("Not finished. These errors are in logs/:\n")[2].splitlines()
    assert " ERROR 2 of 9 sequences are longer" in end[0]
    assert " ERROR b.faa, line 3" in end[1]
    assert end[2].startswith("Finished work is kept")


def test_no_shard_was_embedded(outcome):
    assert outcome.jobs["embed_shard"] == 4
    assert "rule embed_shard" not in outcome.text
    assert "Error in rule index" in outcome.text
    assert "Error in rule split" in outcome.text
