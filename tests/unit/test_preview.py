"""A known model is described before its weights are here, by its small files alone."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hub_stand_in import REPOSITORY, REVISION, HubStandIn, sha256
from worker_runs import BUNDLED_MODEL, SCRIPTS

SMALL = ("config.json", "vocab.txt")
WEIGHTS = "model.safetensors"
SHA = "ab" * 32

# huggingface_hub reads its environment when it is imported, so each preview is a process.
PROGRAM = """
import json, logging, sys
from dataclasses import asdict
from pathlib import Path
from seqembed.errors import ModelError
from seqembed.models import known
from seqembed.models.preview import preview_model
files = {files!r}
model = known.KnownModel("tiny", {repository!r}, {revision!r}, files)
known.KNOWN["tiny"] = model
try:
    found = preview_model("tiny", "tiny", Path({models!r}), logging.getLogger("seqembed"))
    print(json.dumps(asdict(found)))
except ModelError as error:
    sys.exit(str(error))
"""


@pytest.fixture
def hub():
    files = {name: (BUNDLED_MODEL / name).read_bytes() for name in SMALL}
    with HubStandIn(files | {WEIGHTS: b"weights"}, {WEIGHTS}) as hub:
        yield hub


def preview(home: Path, endpoint: str, **files: str | None) -> subprocess.CompletedProcess[str]:
    """Preview a model of config.json, vocab.txt and these files, in a home of its own."""
    known = {"config.json": None, "vocab.txt": None} | files
    options = {"repository": REPOSITORY, "revision": REVISION, "models": str(home / "models")}
    program = PROGRAM.format(files=known, **options)
    environment = {"HOME": str(home), "HF_HOME": str(home / "hf"), "HF_ENDPOINT": endpoint}
    environment |= {"PYTHONPATH": str(SCRIPTS), "HF_HUB_DISABLE_TELEMETRY": "1"}
    command = [sys.executable, "-c", program]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)


def read(outcome: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    assert outcome.returncode == 0, outcome.stderr
    content: dict[str, Any] = json.loads(outcome.stdout)
    return content


def test_the_weights_are_not_downloaded(hub, tmp_path):
    found = read(preview(tmp_path, hub.endpoint, **{WEIGHTS: SHA}))
    assert [hub.downloads(name) for name in (*SMALL, WEIGHTS)] == [1, 1, 0]
    config = json.loads((BUNDLED_MODEL / "config.json").read_text())
    assert (found["family"], found["tokenizer"], found["sha256"]) == ("esm2", "esm2", SHA)
    assert found["architecture"]["width"] == config["hidden_size"]
    assert (found["weights"], found["size"]) == ("", 0)


def test_weights_that_would_be_converted_have_no_known_hash(hub, tmp_path):
    assert read(preview(tmp_path, hub.endpoint, **{"pytorch_model.bin": SHA}))["sha256"] == ""


def test_files_put_there_by_hand_are_taken(hub, tmp_path):
    folder = tmp_path / "models/tiny/original"
    folder.mkdir(parents=True)
    for name in SMALL:
        (folder / name).write_bytes((BUNDLED_MODEL / name).read_bytes())
    assert read(preview(tmp_path, hub.endpoint))["name"] == "tiny"
    assert hub.requests == []


def test_a_wrong_file_is_refused(hub, tmp_path):
    wrong = sha256(b"other")
    outcome = preview(tmp_path, hub.endpoint, **{"config.json": wrong})
    assert outcome.returncode == 1
    assert f"config.json: its SHA-256 is {sha256(hub.files['config.json'])}" in outcome.stderr


def test_a_plan_of_a_prepared_model_starts_without_pytorch():
    code = "import sys, plan; sys.exit('torch' in sys.modules)"
    environment = {"PYTHONPATH": str(SCRIPTS)}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)
