"""A sequence that cannot be embedded stops nothing, is named, and fails a run only where asked."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from driver import Place, make_proteins, read_rows, write_fasta
from safetensors.torch import load_file, save_file

from seqembed.models.vocabularies import ESM

RESULTS = Path("results/work")
REASON = "its values are not finite, in fp32 too"
CHECKED = "quarantine.checked"


@pytest.fixture(scope="module")
def spoilt_model(model, tmp_path_factory) -> Path:
    """The bundled model, but that it gives nothing finite for an X."""
    folder = tmp_path_factory.mktemp("spoilt") / "model"
    shutil.copytree(model, folder)
    state = load_file(folder / "model.safetensors")
    # Finite, and too large for the sum of squares in the first LayerNorm.
    state["embeddings.word_embeddings.weight"][ESM.tokens.index("X")] = 1e38
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def configure(place: Place, model: Path, **execution: str) -> None:
    datasets = {"work": {"fasta": "work.faa", "model": "spoilt"}}
    models = {"spoilt": str(model)}
    place.configure(datasets=datasets, models=models, device="cpu", execution=execution)


@pytest.fixture(scope="module")
def finished(checkout, spoilt_model, tmp_path_factory) -> Place:
    place = Place(checkout, tmp_path_factory.mktemp("quarantine"))
    proteins = make_proteins(20)
    proteins |= {"bad": "MKXV", "p5b": proteins["p5"], "also bad": "mkxv*"}
    write_fasta(place.folder / "work.faa", proteins)
    configure(place, spoilt_model)
    outcome = place.run()
    assert outcome.computed == 20
    assert "1 sequences could not be embedded; after the merge, quarantine.tsv" in outcome.text
    assert "quarantine.tsv: 2 sequences without an embedding" in outcome.text
    return place


def test_quarantined_ids_are_listed_and_all_others_have_rows(finished):
    lines = (finished.folder / RESULTS / "quarantine.tsv").read_text().splitlines()
    assert lines == ["sequence_id\treason", f"bad\t{REASON}", f"also\t{REASON}"]
    ids, _ = read_rows(finished.folder / RESULTS / "embeddings.h5")
    assert ids == [f"p{n}" for n in range(20)] + ["p5b"]
    assert "all is well" in finished.run("verify").text


def test_on_quarantine_fail_fails_the_run_and_keeps_results(finished, spoilt_model):
    configure(finished, spoilt_model, on_quarantine="fail")
    before = (finished.folder / RESULTS / "embeddings.h5").stat()
    for _ in range(2):
        outcome = finished.run(ok=False)
        assert outcome.jobs == {"check_quarantine": 1, "all": 1, "total": 2}
        told = f"2 sequences could not be embedded: 'bad' ({REASON}), 'also' ({REASON}); "
        assert f"verify: {RESULTS}/embeddings.h5: {told}{RESULTS}/quarantine.tsv" in outcome.text
    assert (finished.folder / RESULTS / "embeddings.h5").stat() == before
    assert not (finished.folder / RESULTS / CHECKED).exists()
    configure(finished, spoilt_model)
    assert finished.plan().nothing_to_do


def test_without_a_result_only_quarantined_sequences_are_tried_again(finished, spoilt_model):
    configure(finished, spoilt_model)
    rows = read_rows(finished.folder / RESULTS / "embeddings.h5")
    (finished.folder / RESULTS / "embeddings.h5").unlink()
    outcome = finished.run()
    assert [old for _, old in outcome.embedded.values()] == [10, 10]
    assert outcome.computed == 0
    log = "".join(p.read_text() for p in finished.folder.glob("logs/work/worker_*.log"))
    assert log.count("bad is quarantined") == 1
    assert read_rows(finished.folder / RESULTS / "embeddings.h5") == rows
