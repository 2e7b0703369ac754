"""Models from a hub on loopback, over HTTP, into a cache of their own: whole, verified, or told."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from hub_stand_in import REPOSITORY, REVISION, HubStandIn, sha256
from worker_runs import SCRIPTS

from seqembed.models.known import KnownFile, KnownModel

WEIGHTS = "model.safetensors"
PARTS = "part-1-of-2.bin", "part-2-of-2.bin"
INDEX = "pytorch_model.bin.index.json"
FILES = {
    "config.json": b'{"model_type": "esm"}',
    WEIGHTS: random.Random(1).randbytes(300_000),
    INDEX: json.dumps({"weight_map": {"a": PARTS[0], "b": PARTS[1], "c": PARTS[0]}}).encode(),
    PARTS[0]: random.Random(2).randbytes(100_000),
    PARTS[1]: random.Random(3).randbytes(100_000),
}
# More than the 10 MiB that huggingface_hub writes at once.
BIG = random.Random(4).randbytes(24 << 20)

# huggingface_hub reads its environment when it is imported, so each fetch is a process.
PROGRAM = """
import logging, sys
from pathlib import Path
from seqembed.errors import ModelError
from seqembed.models.hub import fetch
from seqembed.models.known import KnownFile, KnownModel
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
    """A model of config.json and these files; the table has the hash of the file `hashed`."""
    files = [
        KnownFile(name, sha256(FILES[name]) if name == hashed else None)
        for name in ("config.json", *names)
    ]
    return KnownModel("tiny", REPOSITORY, REVISION, tuple(files))


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


def test_every_file_is_downloaded_into_the_cache_and_asked_for_once(hub, site):
    for _ in range(2):
        assert site.fetch(known(WEIGHTS)) == site.snapshot
    assert_holds(site.snapshot, "config.json", WEIGHTS)
    assert sorted(path.name for path in site.snapshot.iterdir()) == ["config.json", WEIGHTS]
    assert hub.asked("config.json") == [None] and hub.asked(WEIGHTS) == [None]


def test_what_is_cached_needs_no_hub(hub, site):
    model = known(WEIGHTS, hashed=WEIGHTS)
    site.fetch(model)
    away = replace(site, endpoint="http://127.0.0.1:9")
    assert away.fetch(model) == site.snapshot
    assert site.fetch(model, HF_HUB_OFFLINE="1") == site.snapshot


def test_a_download_is_told_in_the_log_and_a_cached_file_is_not(site):
    for told in (True, False):
        process = site.start(known(WEIGHTS))
        said = process.communicate(timeout=120)[1]
        assert (f"downloading {WEIGHTS} of {REPOSITORY}" in said) == told


def test_torch_is_not_needed(site):
    program = "import sys, seqembed.models.hub; sys.exit('torch' in sys.modules)"
    environment = os.environ | {"PYTHONPATH": str(SCRIPTS)}
    subprocess.run([sys.executable, "-c", program], env=environment, check=True)


def test_a_connection_that_breaks_off_goes_on_where_it_was(hub, site):
    hub.files[WEIGHTS], hub.cuts[WEIGHTS] = BIG, [15 << 20]
    site.fetch(replace(known(), files=(KnownFile("config.json"), KnownFile(WEIGHTS, sha256(BIG)))))
    assert (site.snapshot / WEIGHTS).read_bytes() == BIG
    assert hub.asked(WEIGHTS) == [None, "bytes=10485760-"]


def test_a_connection_that_never_holds_is_told_and_the_next_run_is_whole(hub, site):
    hub.cuts[WEIGHTS] = [1000] * 20
    message = site.refused(known(WEIGHTS))
    assert f"{REPOSITORY}: the hub broke off" in message and "Run again" in message
    assert [path.name for path in site.snapshot.iterdir()] == ["config.json"]
    hub.cuts.clear()
    site.fetch(known(WEIGHTS))
    assert_holds(site.snapshot, "config.json", WEIGHTS)
    assert hub.asked("config.json") == [None]


def test_a_killed_download_leaves_nothing_that_counts_and_the_next_run_is_whole(hub, site):
    hub.files[WEIGHTS], hub.stalls[WEIGHTS] = BIG, 12 << 20
    process = site.start(known(WEIGHTS))
    assert hub.stalled.wait(60)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)
    assert [path.name for path in site.snapshot.iterdir()] == ["config.json"]
    assert site.fetch(known(WEIGHTS)) == site.snapshot
    assert (site.snapshot / WEIGHTS).read_bytes() == BIG
    # Files that were complete are kept; one that was not begins anew, as huggingface_hub has it.
    assert hub.asked("config.json") == [None] and hub.asked(WEIGHTS) == [None, None]


def wrong(name: str) -> bytes:
    return FILES[name][:-1] + bytes([FILES[name][-1] ^ 1])


@pytest.mark.parametrize(
    ("name", "hashed"),
    [(WEIGHTS, ""), (WEIGHTS, WEIGHTS), ("config.json", "config.json")],
    ids=["the hub's hash", "the table's hash", "a small file"],
)
def test_wrong_bytes_are_refused_and_removed_and_the_next_run_is_whole(name, hashed, hub, site):
    hub.served[name] = wrong(name)
    message = site.refused(known(WEIGHTS, hashed=hashed))
    assert str(site.snapshot / name) in message and "run again" in message
    assert sha256(FILES[name]) in message and sha256(wrong(name)) in message
    contents = [path.read_bytes() for path in site.home.rglob("*") if path.is_file()]
    assert wrong(name) not in contents and not (site.snapshot / name).is_symlink()
    hub.served.clear()
    site.fetch(known(WEIGHTS, hashed=hashed))
    assert_holds(site.snapshot, "config.json", WEIGHTS)


def test_what_the_hub_states_does_not_stand_above_the_table(hub, site):
    hub.files[WEIGHTS] = wrong(WEIGHTS)  # stated and served alike
    message = site.refused(known(WEIGHTS, hashed=WEIGHTS))
    assert f"{sha256(wrong(WEIGHTS))}, but should be {sha256(FILES[WEIGHTS])}" in message


def test_a_cached_file_that_changed_is_noticed(hub, site):
    site.fetch(known(WEIGHTS))
    (site.snapshot / WEIGHTS).resolve().write_bytes(wrong(WEIGHTS))
    assert "it was removed, run again" in site.refused(known(WEIGHTS))
    site.fetch(known(WEIGHTS))
    assert_holds(site.snapshot, WEIGHTS)


def test_all_that_links_to_wrong_bytes_goes(hub, site):
    # As the cache keeps bytes that several repositories share.
    site.fetch(known(WEIGHTS))
    blob = (site.snapshot / WEIGHTS).resolve()
    shared = site.home / "shared"
    os.rename(blob, shared)
    blob.symlink_to(os.path.relpath(shared, blob.parent))
    shared.write_bytes(wrong(WEIGHTS))
    site.refused(known(WEIGHTS))
    assert not any(map(os.path.lexists, (site.snapshot / WEIGHTS, blob, shared)))


def assert_says_what_to_do(message: str, site: Site, *names: str) -> None:
    page = f"https://huggingface.co/{REPOSITORY}/tree/{REVISION}"
    assert f"Run again, or put {', '.join(names)} of {page} into {site.by_hand}." in message
    assert message.startswith(REPOSITORY) and "HF_ENDPOINT" in message and "HF_HOME" in message


def test_a_missing_file_is_told(hub, site):
    del hub.files[WEIGHTS]
    message = site.refused(known(WEIGHTS))
    assert "the hub does not have this file" in message and f"/{WEIGHTS}" in message
    assert_says_what_to_do(message, site, "config.json", WEIGHTS)


@pytest.mark.parametrize(
    ("status", "code", "reason"),
    [
        (403, "GatedRepo", "accept its terms there, `hf auth login`"),
        (401, "RepoNotFound", "accept its terms there, `hf auth login`"),
        (404, "RevisionNotFound", "does not have this revision"),
        (503, "", "cannot be reached"),
    ],
)
def test_a_refusal_is_told_with_its_reason(status, code, reason, hub, site):
    hub.refusals["config.json"] = status, code
    message = site.refused(known(WEIGHTS))
    assert reason in message
    assert_says_what_to_do(message, site, "config.json", WEIGHTS)


def test_a_hub_that_is_not_there_is_told(site):
    away = replace(site, endpoint="http://127.0.0.1:9")
    message = away.refused(known(WEIGHTS))
    assert "the hub cannot be reached" in message
    assert_says_what_to_do(message, site, "config.json", WEIGHTS)


def test_offline_mode_is_told_by_name(hub, site):
    message = site.refused(known(WEIGHTS), HF_HUB_OFFLINE="1")
    assert "HF_HUB_OFFLINE forbids" in message and not hub.requests
    assert_says_what_to_do(message, site, "config.json", WEIGHTS)


def test_no_room_is_told_and_leaves_no_part_of_the_file(hub, site):
    prelude = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))"
    message = site.refused(known(WEIGHTS), prelude)
    assert "it cannot be kept (OSError: [Errno 27]" in message
    assert_says_what_to_do(message, site, "config.json", WEIGHTS)
    assert not list(site.home.rglob("*.incomplete"))


def test_a_broken_transfer_over_xet_is_told_with_the_other_way(hub, site):
    hub.xet = True
    assert "HF_HUB_DISABLE_XET=1" in site.refused(known(WEIGHTS))
    site.fetch(known(WEIGHTS), HF_HUB_DISABLE_XET="1")
    assert_holds(site.snapshot, "config.json", WEIGHTS)


def test_files_put_there_by_hand_are_taken_and_no_hub_is_asked(hub, site):
    put_by_hand(site, "config.json", WEIGHTS)
    before = {path: path.stat().st_mtime_ns for path in site.by_hand.iterdir()}
    assert site.fetch(known(WEIGHTS, hashed=WEIGHTS)) == site.by_hand
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


@pytest.mark.parametrize("by_hand", [False, True])
def test_an_index_brings_the_files_that_it_names(by_hand, hub, site):
    if by_hand:
        put_by_hand(site, "config.json", INDEX, *PARTS)
    folder = site.fetch(known(INDEX))
    assert folder == (site.by_hand if by_hand else site.snapshot)
    assert_holds(folder, "config.json", INDEX, *PARTS)
    assert [hub.asked(part) for part in PARTS] == ([[], []] if by_hand else [[None], [None]])


def test_a_part_is_held_to_the_hash_in_the_table(hub, site):
    hub.files[PARTS[1]] = wrong(PARTS[1])
    message = site.refused(known(INDEX, PARTS[1], hashed=PARTS[1]))
    assert f"but should be {sha256(FILES[PARTS[1]])}" in message


def test_a_part_is_held_to_what_the_hub_states(hub, site):
    hub.served[PARTS[1]] = wrong(PARTS[1])
    assert f"but should be {sha256(FILES[PARTS[1]])}" in site.refused(known(INDEX))


def test_the_files_that_an_index_names_are_told_of(hub, site):
    del hub.files[PARTS[0]]
    assert "config.json, pytorch_model.bin.index.json with the files that it names of" in (
        site.refused(known(INDEX))
    )


HOSTILE = ["../../x", "/tmp/x", "..", ".hidden", "sub/x", "", "a\n", 7]


@pytest.mark.parametrize("name", HOSTILE)
def test_an_index_that_leads_elsewhere_is_refused(name, hub, site):
    hub.files[INDEX] = json.dumps({"weight_map": {"a": PARTS[0], "b": name}}).encode()
    message = site.refused(known(INDEX))
    assert INDEX in message and re.search("no file beside it|no index of weights", message)
    assert not (site.snapshot / INDEX).exists() and not hub.asked(PARTS[0])


def test_an_index_put_there_by_hand_that_leads_elsewhere_is_refused_and_left_there(hub, site):
    put_by_hand(site, "config.json")
    (site.by_hand / INDEX).write_text(json.dumps({"weight_map": {"a": "../config.json"}}))
    assert "names '../config.json', which is no file beside it" in site.refused(known(INDEX))
    assert (site.by_hand / INDEX).exists() and not hub.requests


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b"{}", b'{"weight_map": 3}', b"\xff\xfe"])
def test_a_damaged_index_is_refused(text, hub, site):
    hub.files[INDEX] = text
    assert f"{INDEX}: is no index of weights; it was removed" in site.refused(known(INDEX))


EITHER = replace(known(), weights=(KnownFile(WEIGHTS), KnownFile(INDEX)))


def test_the_first_form_of_the_weights_that_the_hub_has_is_taken(hub, site):
    site.fetch(EITHER)
    assert sorted(path.name for path in site.snapshot.iterdir()) == ["config.json", WEIGHTS]


@pytest.mark.parametrize("by_hand", [False, True])
def test_a_later_form_is_taken_where_the_first_is_not(by_hand, hub, site):
    del hub.files[WEIGHTS]
    if by_hand:
        put_by_hand(site, "config.json", INDEX, *PARTS)
    folder = site.fetch(EITHER)
    assert folder == (site.by_hand if by_hand else site.snapshot)
    assert_holds(folder, "config.json", INDEX, *PARTS)
    assert replace(site, endpoint="http://127.0.0.1:9").fetch(EITHER) == folder


def test_no_form_of_the_weights_is_told(hub, site):
    del hub.files[WEIGHTS], hub.files[INDEX]
    assert f"{WEIGHTS} or {INDEX} with the files" in site.refused(EITHER)
