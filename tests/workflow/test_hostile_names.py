"""Names and texts that a stranger chose, two datasets, ids by file, and where a run writes."""

from __future__ import annotations

import shutil
from pathlib import Path

import h5py
import pytest
from driver import MODEL, Place, make_proteins, read_rows, write_fasta

# Whatever of this is executed leaves a file whose name begins so.
PWNED = "PWNED"
IDS = [
    f"$(touch${{IFS}}{PWNED}1)",
    f"`touch${{IFS}}{PWNED}2`",
    f";touch${{IFS}}{PWNED}3;",
    f"'\"|&touch${{IFS}}{PWNED}4",
    "../../../../tmp/x",
    "/etc/passwd",
    "--output=x",
    "-rf",
    "{wildcards.dataset}{output}{0}",
    "%s%n%(name)s",
    "\\n\\x00\\",
    "\x1b[31mred\x07",
    "\u202eright-to-left\u2066",
    "<script>alert(1)</script>",
    "=cmd|'/C'!A0",
    "a\x0bb\x0cc\x85d\u2028e",
]
DESCRIPTION = f"$(touch {PWNED}5) `touch {PWNED}6`; {{input}} 'x\" ../.. \x1b[2J"
FOLDER = f"it's $HOME {{c}} [b] $(touch {PWNED}7)`touch {PWNED}8`;'\"&|<>*?#!~"
FILES = [
    f"-o;touch {PWNED}9.faa",
    f"'\"$(touch {PWNED}10).faa",
    "sub/../../up.faa",
    'a\\ {"q", é} [1]; *.faa',
]
OWN_MODEL = "-m[o]'d'$e"
ODD, PLAIN = "9.odd--names..x", "plain-1.0_b"
VISIBLE = f"$(touch {PWNED}11)`touch {PWNED}12`;--x\n"

# Put before every Python of the run: which program opens a path to write, or makes or renames it.
RECORDER = """
import os, sys
LOG = os.open(os.environ["RECORD_WRITES"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
MADE = {"os.mkdir": 0, "os.rename": 1, "os.link": 1, "os.symlink": 1, "os.truncate": 0}
def record(event, arguments):
    if event == "open" and arguments[2] & WRITING:
        path = arguments[0]
    elif event in MADE:
        path = arguments[MADE[event]]
    else:
        return
    if isinstance(path, (str, bytes)):
        program = getattr(sys, "argv", ["-c"])[0].encode()
        path = os.fsencode(os.path.abspath(os.fsdecode(path)))
        os.write(LOG, program + b"\\0" + path + b"\\0")
sys.addaudithook(record)
"""


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("hostile")


@pytest.fixture(scope="module")
def place(root, checkout) -> Place:
    """A folder of its own for each thing that a program may write to."""
    folder = root / "work" / FOLDER
    folder.mkdir(parents=True)
    (folder / "sub").mkdir()
    shutil.copytree(checkout, root / "checkout", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("home", "temporary", "hook"):
        (root / name).mkdir()
    (root / "hook/sitecustomize.py").write_text(RECORDER)
    proteins = dict(zip(IDS, make_proteins(len(IDS)).values(), strict=True))
    write_fasta(folder / FILES[0], proteins, DESCRIPTION)
    for number, name in enumerate(FILES[1:]):
        write_fasta(folder / name, {f"p{number}": "MKVLAT"})
    for name in ("a.faa", "b.faa"):
        write_fasta(folder / "data" / name, make_proteins(6))
    shutil.copytree(checkout / MODEL, folder / OWN_MODEL)
    environment = {
        "HOME": str(root / "home"),
        "TMPDIR": str(root / "temporary"),
        "RECORD_WRITES": str(root / "writes"),
        "PYTHONPATH": str(root / "hook"),
        "CUDA_VISIBLE_DEVICES": VISIBLE,
    }
    environment |= {f"XDG_{n}_HOME": str(root / "home") for n in ("CACHE", "CONFIG", "DATA")}
    place = Place(root / "checkout", folder, environment)
    length = {"max_length": 20, "long_sequences": "truncate"}
    place.configure(
        datasets={
            ODD: {"fasta": FILES, "model": "odd", "shards": 1},
            PLAIN: {"fasta": "data/*.faa", "model": "odd", "embedding": length},
        },
        models={"odd": OWN_MODEL},
        ids="file:header",
    )
    return place


@pytest.fixture(scope="module")
def before(place, root):
    return set(root.rglob("*"))


@pytest.fixture(scope="module")
def outcome(place, before):
    return place.run("--snakefile", "workflow/Snakefile")


@pytest.fixture(scope="module")
def made(root, before, outcome):
    """All that a run leaves behind, in all of these folders."""
    return set(root.rglob("*")) - before - {root / "writes"}


def result(place: Place, dataset: str) -> Path:
    return place.folder / f"results/{dataset}/embeddings.h5"


def test_each_dataset_has_its_own_shards_and_settings(place, outcome):
    shards = [(ODD, 0), (PLAIN, 0), (PLAIN, 1)]
    assert sorted(outcome.embedded) == [f"results/{n}/shards/shard_{r}.h5" for n, r in shards]
    found = {}
    for name in (ODD, PLAIN):
        with h5py.File(result(place, name), locking=False) as file:
            found[name] = file.attrs["max_length"], file.attrs["long_sequences"]
        assert f"\nEmbeddings: {result(place, name)}\n" in outcome.text
    assert found == {ODD: (1022, "window"), PLAIN: (20, "truncate")}


def test_files_that_share_ids_have_a_row_for_each(place, outcome):
    ids, _ = read_rows(result(place, PLAIN))
    assert ids == [f"{name}:p{n}" for name in ("a.faa", "b.faa") for n in range(6)]


def test_ids_are_texts_and_come_back_as_they_are(place, outcome):
    ids, _ = read_rows(result(place, ODD))
    others = [f"{Path(name).name}:p{number}" for number, name in enumerate(FILES[1:])]
    assert ids == [*(f"{FILES[0]}:{text}" for text in IDS), *others]
    table = result(place, ODD).with_name("quarantine.tsv")
    assert table.read_text() == "sequence_id\treason\n"


def test_nothing_that_a_name_says_is_executed(made):
    assert made
    assert not [path for path in made if path.name.startswith(PWNED)]


def test_what_is_left_is_in_the_working_folder_and_in_snakemakes_cache(root, place, made):
    outside = {path for path in made if not path.is_relative_to(place.folder)}
    outside -= {path for path in outside if "__pycache__" in path.parts}
    cache = root / "home/snakemake"
    assert all(path == cache or cache in path.parents for path in outside)
    inside = {path for path in made if path.is_relative_to(place.folder)}
    inside = {path.relative_to(place.folder).parts[0] for path in inside}
    assert inside == {"results", "logs", "resources", ".snakemake"}


def test_our_own_programs_write_in_the_working_folder_alone(root, place, made):
    words = (root / "writes").read_text().split("\0")[:-1]
    written = {(program, Path(path)) for program, path in zip(words[::2], words[1::2], strict=True)}
    ours = {(p, path) for p, path in written if not p.endswith("snakemake/__main__.py")}
    programs = {Path(program).name for program, _ in ours}
    entries = {"index.py", "split.py", "prepare_model.py", "embed_shard.py", "merge.py"}
    assert programs == entries
    ours = {path for _, path in ours if "__pycache__" not in path.parts}
    elsewhere = {path for path in ours if not path.is_relative_to(place.folder)}
    assert elsewhere <= {Path("/dev/null")}
    folders = {path.relative_to(place.folder).parts[0] for path in ours - elsewhere}
    assert folders == {"results", "logs", "resources"}
