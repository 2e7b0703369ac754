"""Models from a hub on loopback, over HTTP, into a cache of their own: whole and verified."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from hub_stand_in import REPOSITORY, REVISION, HubStandIn, sha256
from worker_runs import SCRIPTS

from seqembed.models.known import KnownModel

WEIGHTS = "model.safetensors"
PARTS = "pytorch_model-1-of-2.bin", "pytorch_model-2-of-2.bin"
INDEX = "pytorch_model.bin.index.json"
FILES = {
    "config.json": b'{"model_type": "esm"}',
    WEIGHTS: random.Random(1).randbytes(300_000),
    INDEX: json.dumps({"weight_map": {"a": PARTS[0], "b": PARTS[1], "c": PARTS[0]}}).encode(),
    PARTS[0]: random.Random(2).randbytes(100_000),
    PARTS[1]: random.Random(3).randbytes(100_000),
}
NOWHERE = "http://127.0.0.1:9"

# huggingface_hub reads its environment when it is imported, so each fetch is a process.
PROGRAM = """
import logging, sys
from pathlib import Path
from seqembed.errors import ModelError
from seqembed.models.hub import fetch
from seqembed.models.known import KnownModel
{prelude}
logging.basicConfig(level=logging.INFO)
logger = logging.getLogger("seqembed")
try:
    print(fetch({model!r}, Path({by_hand!r}), logger))
except ModelError as error:
    sys.exit(str(error))
"""
# Between attempts huggingface_hub waits for seconds, which a test has no use for.
IMPATIENT = "import time; time.sleep = lambda seconds: None"


def known(*names: str, hashed: str = "") -> KnownModel:
    """A model of config.json and these files; the hash of the file `hashed` is known."""
    files = {
        name: sha256(FILES[name]) if name == hashed else None for name in ("config.json", *names)
    }
    return KnownModel("tiny", REPOSITORY, REVISION, files)


@dataclass(frozen=True)
class Site:
    """A machine: its cache, its folder for files put there by hand, and the hub it asks."""

    home: Path
    endpoint: str

    @property
    def by_hand(self) -> Path:
        return self.home / "original"

    @property
    def snapshot(self) -> Path:
        repository = self.home / "hf" / "hub" / f"models--{REPOSITORY.replace('/', '--')}"
        return repository / "snapshots" / REVISION

    def start(
        self, model: KnownModel, prelude: str = "", **variables: str
    ) -> subprocess.Popen[str]:
        program = PROGRAM.format(prelude=prelude, model=model, by_hand=str(self.by_hand))
        environment = {
            "PATH": os.environ["PATH"], "HOME": str(self.home), "HF_HOME": str(self.home / "hf"),
            "HF_ENDPOINT": self.endpoint, "PYTHONPATH": str(SCRIPTS),
        }  # fmt: skip
        return subprocess.Popen(
            [sys.executable, "-c", program], env=environment | variables, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip

    def fetch(self, model: KnownModel, prelude: str = IMPATIENT, **variables: str) -> Path:
        """The folder that `fetch` returns; RuntimeError with what it said, where it failed."""
        process = self.start(model, prelude, **variables)
        out, said = process.communicate(timeout=120)
        if process.returncode:
            raise RuntimeError(said)
        return Path(out.strip())

    def refused(self, model: KnownModel, prelude: str = IMPATIENT, **variables: str) -> str:
        """The message of the ModelError that `fetch` ends with."""
        with pytest.raises(RuntimeError) as error:
            self.fetch(model, prelude, **variables)
        assert "Traceback" not in str(error.value)
        return str(error.value).splitlines()[-1]


@pytest.fixture
def hub():
    with HubStandIn(dict(FILES), {WEIGHTS, *PARTS}) as hub:
        yield hub


@pytest.fixture
def site(tmp_path, hub) -> Site:
    return Site(tmp_path, hub.endpoint)


def put_by_hand(site: Site, *names: str) -> None:
    site.by_hand.mkdir()
    for name in names:
        (site.by_hand / name).write_bytes(FILES[name])


def assert_holds(folder: Path, *names: str) -> None:
    assert {name: (folder / name).read_bytes() for name in names} == {n: FILES[n] for n in names}


def test_files_are_downloaded_into_the_cache_and_asked_for_once(hub, site):
    for _ in range(2):
        assert site.fetch(known(WEIGHTS)) == site.snapshot
    assert_holds(site.snapshot, "config.json", WEIGHTS)
    assert sorted(path.name for path in site.snapshot.iterdir()) == ["config.json", WEIGHTS]
    assert [hub.downloads(name) for name in ("", "config.json", WEIGHTS)] == [1, 1, 1]


def test_cached_files_need_no_hub(hub, site):
    model = known(WEIGHTS, hashed=WEIGHTS)
    site.fetch(model)
    assert replace(site, endpoint=NOWHERE).fetch(model) == site.snapshot
    assert site.fetch(model, HF_HUB_OFFLINE="1") == site.snapshot


def assert_says_what_to_do(message: str, site: Site) -> None:
    page = f"https://huggingface.co/{REPOSITORY}/tree/{REVISION}"
    assert f"put config.json, {WEIGHTS} of {page} into {site.by_hand}" in message
    assert message.startswith(f"{REPOSITORY}: cannot be downloaded (")


def test_after_a_broken_download_the_next_run_is_whole(hub, site):
    hub.cut[WEIGHTS] = 1000
    assert_says_what_to_do(site.refused(known(WEIGHTS)), site)
    assert [path.name for path in site.snapshot.iterdir()] == ["config.json"]
    hub.cut.clear()
    site.fetch(known(WEIGHTS))
    assert_holds(site.snapshot, "config.json", WEIGHTS)
    assert hub.downloads("config.json") == 1


def test_after_a_killed_download_the_next_run_is_whole(hub, site):
    hub.stalls[WEIGHTS] = 100_000
    process = site.start(known(WEIGHTS))
    assert hub.stalled.wait(60)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)
    assert not (site.snapshot / WEIGHTS).exists()
    assert site.fetch(known(WEIGHTS)) == site.snapshot
    assert_holds(site.snapshot, "config.json", WEIGHTS)


def wrong(name: str) -> bytes:
    return FILES[name][:-1] + bytes([FILES[name][-1] ^ 1])


@pytest.mark.parametrize(
    ("name", "hashed"),
    [(WEIGHTS, ""), (WEIGHTS, WEIGHTS), ("config.json", "config.json")],
    ids=["the hub's hash", "the known hash", "a small file"],
)
def test_wrong_bytes_are_refused_and_removed_and_the_next_run_is_whole(name, hashed, hub, site):
    hub.served[name] = wrong(name)
    message = site.refused(known(WEIGHTS, hashed=hashed))
    assert str(site.snapshot / name) in message and "run again" in message
    assert f"its SHA-256 is {sha256(wrong(name))}, but should be {sha256(FILES[name])}" in message
    contents = [path.read_bytes() for path in site.home.rglob("*") if path.is_file()]
    assert wrong(name) not in contents and not (site.snapshot / name).is_symlink()
    hub.served.clear()
    site.fetch(known(WEIGHTS, hashed=hashed))
    assert_holds(site.snapshot, "config.json", WEIGHTS)


def test_the_known_hash_stands_above_the_hubs(hub, site):
    hub.files[WEIGHTS] = wrong(WEIGHTS)  # stated and served alike
    message = site.refused(known(WEIGHTS, hashed=WEIGHTS))
    assert f"{sha256(wrong(WEIGHTS))}, but should be {sha256(FILES[WEIGHTS])}" in message


@pytest.mark.parametrize("shared", [False, True])
def test_a_cached_file_that_changed_is_removed_and_downloaded_again(shared, hub, site):
    site.fetch(known(WEIGHTS))
    blob = (site.snapshot / WEIGHTS).resolve()
    if shared:
        # As the cache keeps bytes that several repositories share.
        os.rename(blob, site.home / "shared")
        blob.symlink_to(os.path.relpath(site.home / "shared", blob.parent))
    blob.write_bytes(wrong(WEIGHTS))
    assert "the file was removed, so run again" in site.refused(known(WEIGHTS))
    site.fetch(known(WEIGHTS))
    assert_holds(site.snapshot, WEIGHTS)


def test_a_missing_file_is_named(hub, site):
    del hub.files[WEIGHTS]
    message = site.refused(known(WEIGHTS))
    assert f"there is no {WEIGHTS}" in message
    assert_says_what_to_do(message, site)


NO_ROOM = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))"


@pytest.mark.parametrize(
    ("refusal", "options", "phrase"),
    [
        ((403, "GatedRepo"), {}, ""),
        ((401, "RepoNotFound"), {}, ""),
        ((404, "RevisionNotFound"), {}, ""),
        ((503, ""), {}, ""),
        (None, {"HF_ENDPOINT": NOWHERE}, ""),
        (None, {"HF_HUB_OFFLINE": "1"}, "HF_HUB_OFFLINE"),
        (None, {"prelude": NO_ROOM}, "[Errno 27]"),
    ],
)
def test_a_failed_download_says_what_to_do(refusal, options, phrase, hub, site):
    hub.refusal = refusal
    message = site.refused(known(WEIGHTS), **options)
    assert phrase in message
    assert_says_what_to_do(message, site)
    assert not (hub.requests and "HF_HUB_OFFLINE" in options)


def test_without_xet_a_model_comes_another_way(hub, site):
    hub.xet = True
    assert "HF_HUB_DISABLE_XET=1" in site.refused(known(WEIGHTS))
    site.fetch(known(WEIGHTS), HF_HUB_DISABLE_XET="1")
    assert_holds(site.snapshot, "config.json", WEIGHTS)


def test_files_put_there_by_hand_are_taken_and_no_hub_is_asked(hub, site):
    put_by_hand(site, "config.json", INDEX, *PARTS)
    before = {path: path.stat().st_mtime_ns for path in site.by_hand.iterdir()}
    assert site.fetch(known(INDEX, PARTS[0], hashed=PARTS[0])) == site.by_hand
    assert {path: path.stat().st_mtime_ns for path in site.by_hand.iterdir()} == before
    assert not hub.requests and not site.snapshot.exists()


def test_a_wrong_file_put_there_by_hand_is_refused_and_left_there(hub, site):
    put_by_hand(site, "config.json", WEIGHTS)
    (site.by_hand / WEIGHTS).write_bytes(wrong(WEIGHTS))
    message = site.refused(known(WEIGHTS, hashed=WEIGHTS))
    assert str(site.by_hand / WEIGHTS) in message and "put the right one there" in message
    assert sha256(FILES[WEIGHTS]) in message and sha256(wrong(WEIGHTS)) in message
    assert (site.by_hand / WEIGHTS).read_bytes() == wrong(WEIGHTS) and not hub.requests


@pytest.mark.parametrize("missing", ["config.json", PARTS[1]])
def test_a_folder_that_lacks_a_file_does_not_count(missing, hub, site):
    put_by_hand(site, *({"config.json", INDEX, *PARTS} - {missing}))
    assert site.fetch(known(INDEX)) == site.snapshot
    assert_holds(site.snapshot, "config.json", INDEX, *PARTS)
    assert [hub.downloads(part) for part in PARTS] == [1, 1]


@pytest.mark.parametrize("hashed", ["", PARTS[1]])
def test_a_part_is_held_to_its_hash(hashed, hub, site):
    (hub.files if hashed else hub.served)[PARTS[1]] = wrong(PARTS[1])
    names = (INDEX, PARTS[1]) if hashed else (INDEX,)
    message = site.refused(known(*names, hashed=hashed))
    assert f"but should be {sha256(FILES[PARTS[1]])}" in message


ELSEWHERE = [json.dumps({"weight_map": {"a": name}}) for name in ("../x", "/tmp/x", 7)]


@pytest.mark.parametrize(
    ("content", "by_hand"),
    [(content, False) for content in ("{", *ELSEWHERE)] + [(ELSEWHERE[0], True)],
)
def test_an_index_that_is_damaged_or_leads_elsewhere_is_refused(content, by_hand, hub, site):
    hub.files[INDEX] = content.encode()
    if by_hand:
        put_by_hand(site, "config.json")
        (site.by_hand / INDEX).write_text(content)
    place = site.by_hand if by_hand else site.snapshot
    assert site.refused(known(INDEX)).startswith(f"{place / INDEX}: ")
