"""Run the tests that need a GPU, and those that use one if there is one; count how they ended."""

from __future__ import annotations

import argparse
import importlib.util
import json
import subprocess
import sys
import xml.etree.ElementTree as xml
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# Of each device. A dry run on a CPU, where `make test` runs them all, has the fewest.
OF_KERNELS = [f"tests/unit/test_{name}.py" for name in ("kernels", "attention", "trial")]
TESTS = {"cuda": ["tests/gpu", *OF_KERNELS], "cpu": ["tests/gpu/test_devices_gpu.py"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--junit", type=Path, required=True, help="gets pytest's own report")
    parser.add_argument("--device", choices=TESTS, default="cuda", help="(%(default)s)")
    options = parser.parse_args()
    command = [sys.executable, "-m", "pytest", *TESTS[options.device], "-p", "no:cacheprovider"]
    # Half of the time is the CPU's: tests compile kernels, and start processes.
    if options.device == "cuda" and importlib.util.find_spec("xdist"):
        command += ["-n", "4", "--dist", "loadfile"]
    ended = subprocess.run([*command, f"--junitxml={options.junit.absolute()}"], cwd=ROOT)
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
