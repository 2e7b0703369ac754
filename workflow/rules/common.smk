"""The configuration, and the functions that give rules their inputs and params.

A params function that takes `wildcards` alone says what is computed: another value runs the job
again. One that also takes `resources` says how: another value runs nothing again.
"""

import atexit
import json
import os
import sys
import time
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from snakemake.exceptions import WorkflowError
from snakemake.io import contains_wildcard
from snakemake.logging import logger
from snakemake.settings.types import DeploymentMethod

SCRIPTS = Path(workflow.current_basedir) / ".." / "scripts"
sys.path.append(str(SCRIPTS))

from seqembed.errors import FastaError, SeqembedError
from seqembed.fasta.files import find_fasta_files
from seqembed.models import known as known_models
from seqembed.models.source import list_model_files
from seqembed.rules import (
    list_changes,
    list_errors,
    refuse_lost_words,
    refuse_other_gpu_limits,
    refuse_to_replace,
)
from seqembed.settings import short_form
from seqembed.settings.schema import NO_DATASETS, complete, get_datasets
from seqembed.settings.yaml_file import check_yaml
from seqembed.storage.paths import expand

# Absent where everything is given on the command line, or in another folder.
OWN_CONFIG = (
    [Path("config/config.yaml")] if os.path.lexists("config/config.yaml") else []
)


@contextmanager
def explained(beginning=""):
    """Turn an error that a user can mend into Snakemake's own, which shows no traceback."""
    try:
        yield
    except SeqembedError as error:
        raise WorkflowError(f"{beginning}{error}") from None


with explained():
    for path in OWN_CONFIG + list(workflow.overwrite_configfiles):
        # A JSON file for --configfile need not be valid YAML.
        if path.suffix.lower() != ".json":
            check_yaml(path)

if OWN_CONFIG:

    configfile: "config/config.yaml"


STARTED = time.time()
# Some checks run once, not in every job; and not in a module, where the command line is meant for
# the importing workflow too.
IS_MAIN = workflow.is_main_process and workflow.modifier.is_main_snakefile()

with explained("The configuration is not right:\n"):
    if IS_MAIN:
        refuse_lost_words(sys.argv, workflow.config_settings.config_args)
    SETTINGS = complete(config)
    DATASETS = get_datasets(SETTINGS)


def check_short_form():
    """Say which datasets are left out; refuse to replace the results of other files."""
    (dataset,) = DATASETS.values()
    if left_out := config.get("datasets"):
        names = ", ".join(map(str, list(left_out)[:10]))
        message = f"Only {dataset.name}, which fasta= names, is run"
        logger.info(f"{message}; the datasets of the configuration are not: {names}.")
    index = Path(f"results/{dataset.name}/index.parquet")
    if not index.exists():
        return
    try:
        files = find_fasta_files(list(dataset.fasta))
    except FastaError:
        # get_fasta_files refuses them later, with the dataset's name.
        return
    refuse_to_replace(dataset.fasta, files, index)


if IS_MAIN:
    with explained():
        refuse_other_gpu_limits(workflow.global_resources, SETTINGS["device"])
        if short_form.is_short(config):
            check_short_form()


wildcard_constraints:
    dataset=r"[A-Za-z0-9][A-Za-z0-9._-]*",
    model=r"[A-Za-z0-9][A-Za-z0-9._-]*",
    rank=r"[0-9]+",


def get_dataset(wildcards):
    if wildcards.dataset not in DATASETS:
        known = ", ".join(DATASETS) or "none"
        raise WorkflowError(
            f"No dataset is named {wildcards.dataset!r}; known: {known}"
        )
    return DATASETS[wildcards.dataset]


def list_results():
    return [f"results/{name}/embeddings.h5" for name in DATASETS]


def list_failures():
    """The errors of the logs of failed jobs; of all logs, if no failed job is known."""
    failed = getattr(workflow.scheduler, "failed", ())
    jobs = [job for group in failed for job in getattr(group, "jobs", [group])]
    logs = {Path(log) for job in jobs for log in job.log} or Path("logs").glob(
        "*/*.log"
    )
    return list_errors(sorted(logs), STARTED)


def report_changes(folder):
    """Say, at the end of a run, which FASTA files have changed since they were indexed."""
    for line in list_changes(DATASETS, folder):
        print(line, file=sys.stderr)


if IS_MAIN:
    # With nothing to do, Snakemake calls neither onsuccess nor onerror. It has left the working
    # folder when this is called.
    atexit.register(report_changes, Path.cwd())


def get_results(wildcards):
    if not DATASETS:
        raise WorkflowError(NO_DATASETS)
    return list_results()


def get_checks(wildcards):
    """The further inputs of `rule all`, beside the results."""
    if SETTINGS["execution"]["on_quarantine"] == "warn":
        return []
    return [f"results/{name}/quarantine.checked" for name in DATASETS]


def as_inputs(paths):
    """The user's own files: `local` keeps a module's prefix from their paths."""
    for path in map(str, paths):
        if contains_wildcard(path):
            message = "Snakemake takes braces in a path for a wildcard"
            raise WorkflowError(f"{path}: {message}; rename the file or folder")
    return [local(str(path)) for path in paths]


def get_fasta_files(wildcards):
    with explained(f"Dataset {wildcards.dataset}: "):
        return as_inputs(find_fasta_files(list(get_dataset(wildcards).fasta)))


def get_fasta_patterns(wildcards):
    """The paths as the user wrote them, except that none looks like an option.

    index.py fills in `~` and variables, so that another HOME does not run it again.
    """
    patterns = get_dataset(wildcards).fasta
    return [f"./{text}" if text.startswith("-") else text for text in patterns]


def get_fasta_sizes(wildcards):
    """The files' sizes: a file that an older one replaced is indexed anew."""
    return [os.path.getsize(path) for path in get_fasta_files(wildcards)]


def get_ids(wildcards):
    return SETTINGS["ids"]


def get_gaps(wildcards):
    return SETTINGS["gaps"]


def get_suspicious(wildcards):
    return SETTINGS["suspicious"]


def get_invalid_residues(wildcards):
    return get_dataset(wildcards).invalid_residues


def get_model_source(wildcards):
    return known_models.get_model_source(wildcards.model, SETTINGS["models"])


def get_model_files(wildcards):
    source = get_model_source(wildcards)
    if source in known_models.KNOWN:
        # Its files are downloaded, and Snakemake does not have to watch them.
        return []
    path = Path(expand(source))
    if not path.exists():
        raise WorkflowError(
            known_models.explain_missing_source(wildcards.model, source)
        )
    return as_inputs(list_model_files(path))


def get_prepared_model(wildcards):
    return f"resources/models/{get_dataset(wildcards).model}.json"


def get_shards(wildcards):
    ranks = range(get_dataset(wildcards).shards)
    return [f"results/{wildcards.dataset}/shards/shard_{rank}.h5" for rank in ranks]


def get_world_size(wildcards):
    return get_dataset(wildcards).shards


def get_settings(wildcards):
    """What embed_shard computes, as JSON: another value runs the shard again."""
    return json.dumps(asdict(get_dataset(wildcards).request))


def get_layer(wildcards):
    return get_dataset(wildcards).request.layer


def get_long_sequences(wildcards):
    return get_dataset(wildcards).request.long_sequences


def get_max_length(wildcards):
    return get_dataset(wildcards).request.max_length


def get_gpus(wildcards):
    """One GPU for each job that embeds; unset if the device is the CPU."""
    return None if SETTINGS["device"] == "cpu" else 1


def get_threads(wildcards):
    """The cores of one shard when all shards run side by side.

    On a cluster one, unless --set-threads says more: --cores means no single machine there.
    """
    if workflow.remote_exec or workflow.non_local_exec:
        return 1
    return max(1, (workflow.cores or 1) // get_dataset(wildcards).shards)


def get_python(wildcards, resources):
    """The interpreter of the rule's conda environment, else the one that runs Snakemake."""
    deployed = workflow.deployment_settings.deployment_method
    return "python" if DeploymentMethod.CONDA in deployed else sys.executable


def get_scripts(wildcards, resources):
    return str(SCRIPTS)


def get_own_step(wildcards, resources):
    """On a cluster, the option for a Slurm step of its own, which hears of time limits."""
    return ["--own-step"] if workflow.remote_exec else []


def get_execution(wildcards, resources):
    """How embed_shard computes, as JSON: another value runs nothing again."""
    execution, device = SETTINGS["execution"], SETTINGS["device"]
    if device == "auto" and workflow.remote_exec:
        # The job has asked for a GPU, and would silently waste it on the CPU.
        device = "cuda"
    return json.dumps(
        {
            "device": device,
            "token_budget": execution["token_budget"],
            "checkpoint_seq_threshold": execution["checkpoint"]["sequences"],
            "checkpoint_time_threshold": execution["checkpoint"]["seconds"],
        }
    )
