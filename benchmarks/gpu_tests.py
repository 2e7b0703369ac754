"""Run the tests that need a GPU, and those that use one if there is one; count how they ended."""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import xml.etree.ElementTree as xml
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[1]
# Of each device. A dry run on a CPU, where `make test` runs them all, has the fewest.
OF_KERNELS = [f"tests/unit/test_{name}.py" for name in ("kernels", "attention", "trial")]
TESTS = {"cuda": ["tests/gpu", *OF_KERNELS], "cpu": ["tests/gpu/test_devices_gpu.py"]}
# At once; each has a CUDA context of its own, of up to a gigabyte.
PROCESSES = 8


def timeout_words(has_plugin: bool) -> list[str]:
    """Return pytest's options for the time that a test may take.

    has_plugin: whether pytest-timeout is installed. Without it pytest does not know the setting
    `timeout` of pyproject.toml, and --strict-config, which addopts has, makes that an error.
    """
    return ["--timeout", "90"] if has_plugin else ["-o", "addopts=--strict-markers -ra"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--junit", type=Path, required=True, help="gets pytest's own report")
    parser.add_argument("--device", choices=TESTS, default="cuda", help="(%(default)s)")
    options = parser.parse_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("PyTorch finds no CUDA device: the tests for GPUs did not run")
    command = [sys.executable, "-m", "pytest", *TESTS[options.device], "-p", "no:cacheprovider"]
    # The log names each test as soon as it has ended. Other versions of packages may warn.
    command += ["-v", "-W", "default"]
    command += timeout_words(importlib.util.find_spec("pytest_timeout") is not None)
    # Most of the time is the CPU's: tests compile kernels, and start processes.
    if options.device == "cuda" and importlib.util.find_spec("xdist"):
        command += ["-n", str(min(PROCESSES, len(os.sched_getaffinity(0)))), "--dist", "worksteal"]
    variables = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    junit = f"--junitxml={options.junit.absolute()}"
    options.junit.unlink(missing_ok=True)
    ended = subprocess.run([*command, junit], cwd=ROOT, env=variables)
    if not options.junit.exists():
        raise SystemExit(f"pytest ended with {ended.returncode} and ran no test")
    suite = xml.parse(options.junit).getroot().find("testsuite")
    assert suite is not None
    counts = {name: int(suite.get(name, 0)) for name in ("tests", "failures", "errors", "skipped")}
    bad = [
        c.get("name") for c in suite if c.find("failure") is not None or c.find("error") is not None
    ]
    print(json.dumps({"kind": "tests"} | counts | {"bad": bad}), flush=True)
    sys.exit(ended.returncode)


if __name__ == "__main__":
    main()
