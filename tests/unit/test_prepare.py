"""Models as workers get them: checked, converted where needed, and not changed since."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from esm_in_plain import fair_model, save_fair
from indexing import read_records
from models_in_plain import (
    assert_close,
    assert_same,
    dnabert_folder,
    embed,
    encode,
    random_tokens,
)
from safetensors.torch import load_file, save_file
from t5_in_plain import ANKH3_TOKENS, ankh_tokenizer, small_t5, whole_t5
from weight_files import save_in_parts
from worker_runs import SCRIPTS

from seqembed.errors import ModelError
from seqembed.models import prepare
from seqembed.models.architectures import Esm2Architecture
from seqembed.models.encoders.encoder import Encoder
from seqembed.models.encoders.esm2 import Esm2
from seqembed.models.families import FAMILIES
from seqembed.models.load import load_prepared
from seqembed.models.prepare import prepare_model
from seqembed.models.prepared import load_tokenizer, read_prepared
from seqembed.models.source import (
    PICKLED,
    SAFETENSORS,
    list_model_files,
    list_weight_files,
)
from seqembed.models.weights.build import build_model
from seqembed.models.weights.checkpoint import Checkpoint, read_checkpoint
from seqembed.models.weights.formats import read_state
from seqembed.storage.digests import digest

LOGGER = logging.getLogger("seqembed.tests")
RESOURCES = Path(__file__).parents[2] / "resources"
DATA = Path(__file__).parents[1] / "data"
BUNDLED = DATA / "esm2_random"
OUTPUT = Path("resources/models/mine.json")
CONVERTED = Path("resources/models/mine/model.safetensors")
SEQUENCES = [b"M", b"MKLVINGKTLKGEITIEGAVDAATAEKIFKQYANDNGIDGEWTYDDATKTFTVTEX" * 3]

# Files of users look like this: later versions add keys, and must go on reading this one.
GOLDEN = Path(__file__).parents[1] / "golden/model.json"


def golden(**changes: object) -> str:
    """The golden description with other keys; those of None are left out."""
    content = json.loads(GOLDEN.read_text()) | changes
    return json.dumps({key: value for key, value in content.items() if value is not None})


def rows(model: Encoder) -> list[torch.Tensor]:
    """Rows of SEQUENCES, or of tokens for DNABERT-S, each (n, width)."""
    tokens = encode(SEQUENCES) if isinstance(model, Esm2) else random_tokens([1, 200])
    return [embed(model, [one])[0] for one in tokens]


def load(path: Path) -> Encoder:
    """The prepared model up to its last layer."""
    return load_prepared(path, read_prepared(path).architecture.layers)


def load_source(source: Path | str) -> Encoder:
    checkpoint = read_checkpoint(Path(source))
    return build_model(checkpoint, checkpoint.architecture.layers)


def assert_same_rows(a: Encoder, b: Encoder) -> None:
    assert_same(rows(a), rows(b))


def content(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Every file below a folder: when it was changed, and its bytes."""
    paths = (path for path in folder.rglob("*") if path.is_file())
    return {str(path): (path.stat().st_mtime_ns, path.read_bytes()) for path in paths}


@pytest.fixture
def project(tmp_path, monkeypatch) -> Path:
    """A working folder that holds models/esm, a safetensors folder."""
    folder = tmp_path / "project"
    shutil.copytree(BUNDLED, folder / "models" / "esm")
    monkeypatch.chdir(folder)
    return folder


def pickled_folder(folder: Path) -> Path:
    """models/esm again, as a pytorch_model.bin with a tied and a transposed tensor in it."""
    shutil.copytree("models/esm", folder, ignore=shutil.ignore_patterns("*.safetensors"))
    state = load_file("models/esm/model.safetensors")
    state["lm_head.decoder.weight"] = state["embeddings.word_embeddings.weight"]
    name = "encoder.layer.0.intermediate.dense.weight"
    state[name] = state[name].t().contiguous().t()
    torch.save({f"esm.{k}": v for k, v in state.items()}, folder / "pytorch_model.bin")
    return folder


def pickled(form: str) -> Path:
    """A source of pickled weights: a fair-esm file or a folder."""
    if form == "pt":
        return save_fair(fair_model(Esm2Architecture(2, 64, 4, 256)), Path("m.pt"))
    return pickled_folder(Path("pickled"))


def test_a_safetensors_folder_is_used_where_it_lies_and_not_touched(project):
    before = content(project / "models")
    prepare_model("mine", "models/esm/", OUTPUT, LOGGER)
    assert content(project / "models") == before
    assert list(OUTPUT.parent.iterdir()) == [OUTPUT]
    assert_same_rows(load(OUTPUT), load_source("models/esm"))


def test_a_known_name_is_the_known_model_beside_a_folder_of_that_name_too(project, monkeypatch):
    name, asked = "esm2_t6_8M_UR50D", []
    shutil.copytree("models/esm", name)
    other_weights(Path(name) / "model.safetensors")

    def fetch(model, by_hand, logger):
        asked.append((model.name, by_hand))
        return Path("models/esm")

    monkeypatch.setattr("seqembed.models.prepare.fetch", fetch)
    prepare_model("mine", name, OUTPUT, LOGGER)
    assert asked == [(name, OUTPUT.parent / "mine/original")]
    assert read_prepared(OUTPUT).weights == "models/esm/model.safetensors"
    prepare_model("mine", f"./{name}", OUTPUT, LOGGER)
    assert len(asked) == 1
    assert read_prepared(OUTPUT).weights == f"{name}/model.safetensors"


def test_the_description_is_like_the_golden_one(project):
    prepare_model("mine", "models/esm/", OUTPUT, LOGGER)
    weights = Path("models/esm/model.safetensors")
    data, written = weights.read_bytes(), json.loads(OUTPUT.read_text())
    assert len(written.pop("checksum")) == 32
    sizes = {"layers": 4, "width": 64, "heads": 4, "ffn_width": 256}
    expected = json.loads(golden(name="mine", source="models/esm/", weights=str(weights)))
    expected |= {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    assert written == expected | {"architecture": expected["architecture"] | sizes}


@pytest.mark.parametrize(
    ("old", "new"), [('"layers": 4', '"layers": 2'), ("1e-05", "3e-05"), ('"size": ', '"size": 1')]
)
def test_a_description_with_another_number_is_damaged(project, old, new):
    prepare_model("mine", "models/esm/", OUTPUT, LOGGER)
    text = OUTPUT.read_text()
    assert old in text
    OUTPUT.write_text(text.replace(old, new))
    with pytest.raises(ModelError, match=r"mine.json: .*checksum.*remove it and run again"):
        read_prepared(OUTPUT)


def test_the_golden_description_is_read_and_so_is_one_that_grew(tmp_path):
    model, path = read_prepared(GOLDEN), tmp_path / "mine.json"
    # Recipes are made of the fingerprint: it may never change for weights that did not.
    recipe = json.loads(GOLDEN.with_name("recipe.json").read_text())
    assert model.fingerprint == recipe["weights"]
    path.write_text(golden(later=1))
    assert read_prepared(path) == model


@pytest.mark.parametrize("form", ["bin", "pt"])
def test_pickled_weights_are_converted_and_give_the_same_rows(form, project):
    source = pickled(form)
    prepare_model("mine", str(source), OUTPUT, LOGGER)
    model = read_prepared(OUTPUT)
    assert (model.source, model.weights) == (str(source), str(CONVERTED))
    assert load_file(CONVERTED).keys() == read_checkpoint(source).state.keys()
    assert CONVERTED.stat().st_mode & 0o777 == 0o644
    assert_same_rows(load(OUTPUT), load_source(source))
    made = OUTPUT.read_bytes(), CONVERTED.read_bytes()
    shutil.rmtree("resources")
    os.utime(source, (1, 1))
    prepare_model("mine", str(source), OUTPUT, LOGGER)
    assert (OUTPUT.read_bytes(), CONVERTED.read_bytes()) == made


def test_the_fingerprint_is_of_content_and_not_of_paths(project):
    shutil.copytree("models/esm", "elsewhere")
    config = Path("elsewhere/config.json")
    found = []
    for source in ("models/esm", "elsewhere"):
        prepare_model("mine", source, OUTPUT, LOGGER)
        found.append(read_prepared(OUTPUT).fingerprint)
    assert found[0] == found[1]
    config.write_text(json.dumps(json.loads(config.read_text()) | {"token_dropout": False}))
    prepare_model("mine", "elsewhere", OUTPUT, LOGGER)
    assert read_prepared(OUTPUT).fingerprint != found[0]


def test_a_copied_project_works_where_it_now_is(project, tmp_path, monkeypatch):
    source = pickled_folder(Path("pickled"))
    prepare_model("mine", str(source), OUTPUT, LOGGER)
    prepare_model("in_place", "models/esm", Path("in_place.json"), LOGGER)
    expected = load(OUTPUT)
    shutil.copytree(project, tmp_path / "moved")
    shutil.rmtree(project)
    monkeypatch.chdir(tmp_path / "moved")
    assert_same_rows(load(OUTPUT), expected)
    assert_same_rows(load(Path("in_place.json")), expected)


def other_weights(path: Path) -> None:
    """Weights of the same size that load as well, with one number changed."""
    old = Path("models/esm/model.safetensors")
    state, size = load_file(old), old.stat().st_size
    state["encoder.emb_layer_norm_after.bias"][0] += 1
    save_file(state, path, metadata={"format": "pt"})
    assert path.stat().st_size == size


def moved_in_with_an_old_time(path: Path) -> None:
    other_weights(Path("new"))
    os.utime("new", (1, 1))
    os.replace("new", path)


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 4)
    os.utime(OUTPUT, (2**32, 2**32))  # however young the description is


@pytest.mark.parametrize("change", [other_weights, moved_in_with_an_old_time, cut, Path.unlink])
def test_changed_weights_are_noticed(change, project):
    weights = Path("models/esm/model.safetensors")
    prepare_model("mine", "models/esm", OUTPUT, LOGGER)
    change(weights)
    what = "is missing" if change is Path.unlink else "changed since it was prepared"
    with pytest.raises(ModelError, match=rf"{weights}: {what}; .* remove {OUTPUT} and run"):
        load(OUTPUT)


def test_touched_weights_are_still_the_same(project):
    prepare_model("mine", "models/esm", OUTPUT, LOGGER)
    os.utime("models/esm/model.safetensors", (2**32, 2**32))
    load(OUTPUT)


def test_weights_are_not_converted_into_a_models_own_folder(project):
    source = pickled_folder(OUTPUT.with_suffix(""))
    before = content(source)
    with pytest.raises(ModelError, match="give the model another name"):
        prepare_model("mine", str(source), OUTPUT, LOGGER)
    assert content(source) == before and not OUTPUT.exists()


@pytest.mark.parametrize(
    ("text", "phrase"),
    [
        (None, "No such file"),
        ("", "Expecting value"),
        (golden()[:200], ""),
        ("[]", ""),
        (golden(kind="recipe"), "not known"),
        (golden(format_version="2"), "version 2 is not known"),
        (golden(sha256=None), "sha256"),
        (golden(architecture=None), "'architecture' is missing"),
        (golden(architecture={"layers": 4}), "'width' is missing"),
        (golden(architecture=4), ""),
        (golden(family="bert"), "'bert'"),
        (golden(family="dnabert_s"), "vocabulary"),
    ],
)
def test_a_damaged_description_is_refused_by_name(text, phrase, tmp_path):
    path = tmp_path / "mine.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ModelError, match=f"{path}: .*{phrase}.*remove it and run again"):
        read_prepared(path)


def test_the_bundled_model_is_what_its_script_makes(tmp_path):
    script = DATA / "make_esm2_random.py"
    subprocess.run([sys.executable, script, "--output", tmp_path], check=True)
    for name in ("config.json", "vocab.txt", "model.safetensors"):
        assert (tmp_path / name).read_bytes() == (BUNDLED / name).read_bytes(), name


def test_the_bundled_proteins_are_what_their_readme_says():
    records = list(read_records(RESOURCES / "example" / "proteins.fasta"))
    lengths = [len(record.residues) for record in records]
    assert (len(records), min(lengths), max(lengths)) == (60, 8, 1177)
    assert sum(length > FAMILIES["esm2"].max_length for length in lengths) == 10
    assert len({digest(record.residues) for record in records}) == 59
    assert sum(record.sequence_id.startswith("sp|") for record in records) == 11
    assert [r.sequence_id for r in records if b"X" in r.residues] == ["sp|Q9KH25|FTSZ_MYCKA"]


INDEX = "model.safetensors.index.json"
PARTS = [f"model-0000{number}-of-00002.safetensors" for number in (1, 2)]


def write_ankh3_tokenizer(path: Path, *more: str) -> None:
    ankh_tokenizer((*ANKH3_TOKENS, *more), "[NLU]").save(str(path))


def pieces(*tokens: str) -> bytes:
    """A sentencepiece model of short tokens: field 1 is a piece, and its field 1 a text."""
    texts = [token.encode() for token in tokens]
    return b"".join(b"\n%c\n%c%b" % (len(text) + 2, len(text), text) for text in texts)


# How to write the files of tokens that a T5 may have.
T5_FILES: dict[str, Callable[[Path], object]] = {
    "spiece.model": lambda path: shutil.copy(DATA / "prot_t5/spiece.model", path),
    "added_tokens.json": lambda path: path.write_text('{"<AA2fold>": 149}'),
    "tokenizer.json": write_ankh3_tokenizer,
}
SMALL = (2, 48, 12, 80)  # layers, width, heads, ffn_width of a DNABERT-S


def split(source: str, folder: Path, form: str) -> Path:
    """The model again, its weights over two files, every second one in each, and an index."""
    ignore = shutil.ignore_patterns("*.safetensors")
    shutil.copytree(source, folder, ignore=ignore)
    state = load_file(Path(source) / "model.safetensors")
    save_in_parts(state, folder, SAFETENSORS if form == "safetensors" else PICKLED, 2)
    return folder


def source_of(family: str) -> str:
    if family == "esm2":
        return "models/esm"
    return str(dnabert_folder(Path("models/dna"), SMALL))


@pytest.mark.parametrize("family", ["esm2", "dnabert_s"])
def test_split_safetensors_are_used_where_they_lie(family, project):
    source = source_of(family)
    folder = split(source, Path("parts"), "safetensors")
    before = content(folder)
    prepare_model("mine", str(folder), OUTPUT, LOGGER)
    assert content(folder) == before and list(OUTPUT.parent.iterdir()) == [OUTPUT]
    model = read_prepared(OUTPUT)
    assert model.weights == "parts/model.safetensors.index.json"
    assert_same_rows(load(OUTPUT), load_source(source))
    # Both as `cat` has them: the index, then the parts by name.
    data = b"".join((folder / name).read_bytes() for name in (INDEX, *PARTS))
    assert (model.size, model.sha256) == (len(data), hashlib.sha256(data).hexdigest())


def own_memory() -> int:
    """How many bytes of this process's memory are not of a mapped file."""
    status = Path("/proc/self/status").read_text().splitlines()
    (line,) = (line for line in status if line.startswith("RssAnon:"))
    return 1024 * int(line.split()[1])


def test_pickled_weights_are_not_copied_in_memory(tmp_path, monkeypatch):
    size, held = 64 << 20, []
    monkeypatch.setattr(
        prepare, "save_file", lambda *given: held.append(own_memory()) or save_file(*given)
    )
    tensors = {name: torch.ones(size // 8) for name in "ab"}
    path = save_in_parts(tensors, tmp_path, PICKLED, 2)
    checkpoint = Checkpoint(
        architecture=Esm2Architecture(1, 64, 4, 256), state=read_state(path), path=path
    )
    before = own_memory()
    prepare._convert(checkpoint, tmp_path / "model.safetensors")
    assert held[0] - before < size // 4
    assert load_file(tmp_path / "model.safetensors")["b"].sum() == size // 8


@pytest.mark.parametrize("family", ["esm2", "dnabert_s"])
def test_split_pickles_are_converted_to_one_file(family, project):
    source = source_of(family)
    prepare_model("mine", str(split(source, Path("parts"), "bin")), OUTPUT, LOGGER)
    assert read_prepared(OUTPUT).weights == str(CONVERTED)
    assert load_file(CONVERTED).keys() == load_file(Path(source) / "model.safetensors").keys()
    assert_same_rows(load(OUTPUT), load_source(source))


@pytest.mark.parametrize("name", [INDEX, PARTS[0]])
def test_a_changed_or_missing_part_is_noticed(name, project):
    path = split("models/esm", Path("parts"), "safetensors") / name
    prepare_model("mine", "parts", OUTPUT, LOGGER)
    data = path.read_bytes()
    # An index that reads as well, or a part of the same size.
    more = data.replace(b'{"', b'{ "', 1) if name == INDEX else data[:-1] + bytes([data[-1] ^ 1])
    path.write_bytes(more)
    with pytest.raises(ModelError, match=f"changed since it was prepared; .* remove {OUTPUT}"):
        load(OUTPUT)
    path.unlink()
    with pytest.raises(ModelError, match=f"{path}: is missing; .* {OUTPUT}"):
        load(OUTPUT)


@pytest.mark.parametrize("pickled", [False, True])
def test_a_dnabert_is_described_with_its_tokenizer(pickled, project):
    folder = dnabert_folder(Path("dna"), SMALL, pickled)
    prepare_model("mine", "dna", OUTPUT, LOGGER)
    model = read_prepared(OUTPUT)
    assert (model.family, model.max_length) == ("dnabert_s", FAMILIES["dnabert_s"].max_length)
    assert model.weights == (str(CONVERTED) if pickled else "dna/model.safetensors")
    assert model.tokenizer_file == "dna/tokenizer.json"
    data = (folder / "tokenizer.json").read_bytes()
    assert model.tokenizer == hashlib.sha256(data).hexdigest()
    assert load_tokenizer(model).encode(b"A").tolist() == [1, 5, 2]
    assert_same_rows(load(OUTPUT), load_source(folder))
    (folder / "tokenizer.json").write_bytes(data + b"\n")
    with pytest.raises(ModelError, match="tokenizer.json: changed"):
        load_tokenizer(model)


@pytest.mark.parametrize("family", ["esm2", "dnabert_s"])
def test_layers_and_dtypes_are_loaded_as_asked(family, project):
    prepare_model("mine", source_of(family), OUTPUT, LOGGER)
    last = read_prepared(OUTPUT).architecture.layers
    for layer in range(last + 1):
        model = load_prepared(OUTPUT, layer, torch.bfloat16)
        assert not model.training and len(model.layers) == layer
        assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
        assert {b.dtype for b in model.buffers()} == {torch.float32}
    with pytest.raises(ModelError, match=f"layer {last + 1} is not one of 0 to {last}"):
        load_prepared(OUTPUT, last + 1)


@pytest.mark.parametrize("parts", [1, 2])
def test_a_t5s_decoder_and_head_are_not_converted(parts, project):
    whole = whole_t5(small_t5())
    whole.config.save_pretrained("t5")
    save_in_parts(whole.state_dict(), Path("t5"), PICKLED, parts)
    prepare_model("mine", "t5", OUTPUT, LOGGER)
    written = load_file(CONVERTED)
    # Some files have the words by the decoder's name alone.
    own = ("shared.", "encoder.", "decoder.embed_tokens.")
    kept = {name for name in whole.state_dict() if name.startswith(own)}
    assert written.keys() == kept and len(kept) < len(whole.state_dict())
    tokens = encode(SEQUENCES, load_tokenizer(read_prepared(OUTPUT)))
    found = embed(load(OUTPUT), tokens)
    assert_same(found, embed(load_source("t5"), tokens))
    with torch.inference_mode():
        expected = [whole.encoder(one[None]).last_hidden_state[0] for one in tokens]
    assert_close(found, expected)


NON_COMMERCIAL = "mine: its weights are under CC-BY-NC-SA-4.0, which forbids commercial use"
BUILT_IN = "mine: its tokens are built in; "
READ = "mine: its tokens are read from tokenizer.json; "
NOTHING = "no file is there to compare them with"


@pytest.mark.parametrize(
    ("vocabulary", "files", "expected"),
    [
        (128, [], [BUILT_IN + NOTHING]),
        (128, ["spiece.model"], [BUILT_IN + "they agree with spiece.model"]),
        (
            150,
            ["spiece.model", "added_tokens.json"],
            [BUILT_IN + "they agree with spiece.model and added_tokens.json"],
        ),
        (144, [], [NON_COMMERCIAL, BUILT_IN + NOTHING]),
        (256, ["tokenizer.json"], [NON_COMMERCIAL, READ + NOTHING]),
        (
            256,
            ["tokenizer.json", "added_tokens.json"],
            [NON_COMMERCIAL, READ + "they agree with added_tokens.json"],
        ),
    ],
)
def test_the_log_has_the_licence_and_what_tokens_were_compared_with(
    vocabulary, files, expected, tmp_path, caplog
):
    small_t5(vocabulary).save_pretrained(tmp_path)
    for file in files:
        T5_FILES[file](tmp_path / file)
    with caplog.at_level(logging.INFO, LOGGER.name):
        prepare_model("mine", str(tmp_path), tmp_path / "out/mine.json", LOGGER)
    assert caplog.messages == expected


def test_an_ankh_3_is_described_with_its_tokenizer(tmp_path):
    """Its letters are those of tokenizer.json."""
    small_t5(256).save_pretrained(tmp_path)
    path, output = tmp_path / "tokenizer.json", tmp_path / "out/mine.json"
    write_ankh3_tokenizer(path)
    prepare_model("mine", str(tmp_path), output, LOGGER)
    model = read_prepared(output)
    assert (model.family, model.tokenizer_file) == ("ankh3", str(path))
    letters = [ANKH3_TOKENS.index(token) for token in ("[NLU]", *"MKV", "<unk>", "</s>")]
    assert load_tokenizer(model).encode(b"MKVZ").tolist() == letters
    write_ankh3_tokenizer(path, "Z")
    with pytest.raises(ModelError, match="tokenizer.json: changed"):
        load_tokenizer(model)


def test_the_two_files_of_an_ankh_3s_tokens_may_not_contradict_each_other(tmp_path):
    """Tokens are those of tokenizer.json, so spiece.model may lack some that are no amino acid."""
    small_t5(256).save_pretrained(tmp_path)
    write_ankh3_tokenizer(tmp_path / "tokenizer.json")
    output, file = tmp_path / "out/mine.json", tmp_path / "spiece.model"
    file.write_bytes(pieces(*ANKH3_TOKENS[:-3]))
    prepare_model("mine", str(tmp_path), output, LOGGER)
    T5_FILES["spiece.model"](file)
    with pytest.raises(ModelError, match="spiece.model: lacks tokens of the Ankh 3 alphabet"):
        prepare_model("mine", str(tmp_path), output, LOGGER)
    place = ANKH3_TOKENS.index("[NLU]")
    swapped = [*ANKH3_TOKENS[: place - 1], "[NLU]", ANKH3_TOKENS[place - 1]]
    file.write_bytes(pieces(*swapped))
    with pytest.raises(ModelError, match=f"spiece.model: gives other .*NLU. {place - 1}, not"):
        prepare_model("mine", str(tmp_path), output, LOGGER)


def test_the_files_of_a_model_are_named_without_reading_weights(project):
    dnabert_folder(Path("dna"), SMALL)
    names = ["config.json", "tokenizer.json", "model.safetensors"]
    assert list_model_files(Path("dna")) == [Path("dna") / name for name in names]
    folder = split("models/esm", Path("parts"), "bin")
    parts = [f"pytorch_model-0000{n}-of-00002.bin" for n in (1, 2)]
    index = "pytorch_model.bin.index.json"
    expected = ["config.json", "vocab.txt", index, *parts]
    assert list_model_files(folder) == [folder / name for name in expected]
    assert list_weight_files(folder / index) == [folder / name for name in (index, *parts)]
    assert list_model_files(Path("m.pt")) == [Path("m.pt")]
    # What is wrong with it is said when the model is prepared.
    (folder / index).write_text(json.dumps({"weight_map": {"x": "../dna/config.json"}}))
    assert list_model_files(folder) == [folder / name for name in expected[:3]]


def test_finding_a_models_files_needs_no_pytorch():
    modules = "seqembed.models.source, seqembed.models.prepared, seqembed.models.hub"
    code = f"import sys, {modules}; sys.exit('torch' in sys.modules)"
    environment = os.environ | {"PYTHONPATH": str(SCRIPTS)}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)
