"""The configuration, and the functions that give the rules their inputs and params.

If a params function takes `wildcards` alone, Snakemake runs a job again when the function returns
another value: these functions return what is computed. If it also takes `resources`, another value
runs no job again: these return how it is computed.
"""

import atexit
import json
import os
import sys
import time
from contextlib import contextmanager
from dataclasses import asdict
from importlib.util import find_spec
from itertools import islice
from pathlib import Path

from snakemake.exceptions import WorkflowError
from snakemake.io import contains_wildcard
from snakemake.logging import logger
from snakemake.settings.types import DeploymentMethod

SCRIPTS = Path(workflow.current_basedir) / ".." / "scripts"
sys.path.append(str(SCRIPTS))

from seqembed.environment import LOGS_ARE_SHOWN
from seqembed.errors import FastaError, SeqembedError, explain
from seqembed.fasta.files import find_fasta_files
from seqembed.models import known as known_models
from seqembed.models import names as model_names
from seqembed.models.source import list_model_files
from seqembed.report.current import PAGE, has_current_report, list_report_files
from seqembed.results.seal import read_seal
from seqembed.run_messages import (
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

# Without this file, all settings come from the command line or from other files.
OWN_CONFIG = (
    [Path("config/config.yaml")] if os.path.lexists("config/config.yaml") else []
)

# Folders that the programs read and write, and that no rule declares. In a module with a prefix,
# their paths begin with it.
RESULTS, PREPARED, SPEEDS = (
    str(workflow.modifier.modify_path(path))
    for path in ("results", "resources/models", "resources/speeds")
)

# A job is given the stores of at most this number of other datasets. Linux limits an argument of a
# program, here --execution, to 128 KiB, in which these fit with the longest names.
MOST_STORES = 500
# `plan` is given the settings of at most this number of datasets, for the same reason.
MOST_PLANNED = 100


@contextmanager
def explained(beginning=""):
    """Raise an error of the `with` block as WorkflowError, of which no traceback is shown.

    Only errors that a user can mend: SeqembedError and OSError. beginning: of the message.
    """
    try:
        yield
    except (SeqembedError, OSError) as error:
        raise WorkflowError(f"{beginning}{explain(error)}") from None


with explained():
    for path in OWN_CONFIG + list(workflow.overwrite_configfiles):
        # --configfile also takes JSON, which need not be valid YAML.
        if path.suffix.lower() != ".json":
            check_yaml(path)

if OWN_CONFIG:

    configfile: "config/config.yaml"


STARTED = time.time()
if workflow.output_settings.show_failed_logs:
    # Jobs on a cluster inherit the variable: Snakemake passes this option on to none of them.
    os.environ[LOGS_ARE_SHOWN] = "1"
# Whether to do the checks that each job need not repeat, and that cannot be done in a module, where
# the command line is also that of the importing workflow.
IS_MAIN = workflow.is_main_process and workflow.modifier.is_main_snakefile()

with explained("The configuration is not right:\n"):
    if IS_MAIN:
        refuse_lost_words(sys.argv, workflow.config_settings.config_args)
    SETTINGS = complete(config)
    DATASETS = get_datasets(SETTINGS)


def check_short_form():
    """Log which datasets are not run; raise ConfigError if results of other files would be lost."""
    (dataset,) = DATASETS.values()
    if left_out := config.get("datasets"):
        names = ", ".join(map(str, list(left_out)[:10]))
        message = f"Only the dataset {dataset.name} of fasta= is run"
        logger.info(f"{message}; these datasets of the configuration are not: {names}.")
    index = Path(f"results/{dataset.name}/index.parquet")
    if not index.exists():
        return
    try:
        files = find_fasta_files(list(dataset.fasta))
    except FastaError:
        # get_fasta_files raises the same error later, with the dataset's name.
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
    """Return the settings of the dataset; raises WorkflowError if the name is not known."""
    if wildcards.dataset not in DATASETS:
        known = ", ".join(DATASETS) or "none"
        raise WorkflowError(
            f"No dataset is named {wildcards.dataset!r}; known: {known}"
        )
    return DATASETS[wildcards.dataset]


def list_results():
    """Return the paths of all datasets' results."""
    return [f"results/{name}/embeddings.h5" for name in DATASETS]


def describe_failure():
    """Return the lines that end a run with errors."""
    if not workflow.is_main_process:
        # The job of a cluster: the program has said its error, and the run's own process ends it.
        return []
    if workflow.output_settings.show_failed_logs:
        lines = ["Not finished. The errors end the logs that are shown above."]
    elif failures := list_failures():
        lines = ["Not finished. These errors are in logs/:", *failures]
    else:
        problem = "Not finished. A program ended without an error in its log"
        reasons = "it was killed, or Python could not start it; see the lines above"
        lines = [f"{problem}: {reasons}."]
    return [*lines, "Finished work is kept: run the same command again to go on."]


def list_failures():
    """Return the errors in the logs of failed jobs, or in all logs if no failed job is known."""
    failed = getattr(workflow.scheduler, "failed", ())
    jobs = [job for group in failed for job in getattr(group, "jobs", [group])]
    logs = {Path(log) for job in jobs for log in job.log} or Path("logs").glob(
        "*/*.log"
    )
    return [f"  {line}" for line in list_errors(sorted(logs), STARTED)]


def report_changes(folder):
    """Print a line for each FASTA file that changed since it was indexed; folder: has `results`."""
    for line in list_changes(DATASETS, folder):
        print(line, file=sys.stderr)


if IS_MAIN:
    # Not in onsuccess or onerror: Snakemake calls neither if there is nothing to do. The folder is
    # passed, because Snakemake has left it when Python exits.
    atexit.register(report_changes, Path.cwd())


def get_results(wildcards):
    """Return the paths of all datasets' results; raises WorkflowError if there is no dataset."""
    if not DATASETS:
        raise WorkflowError(NO_DATASETS)
    return list_results()


def get_checks(wildcards):
    """Return what `all` needs beside the results; nothing with `on_quarantine: warn`."""
    if SETTINGS["execution"]["on_quarantine"] == "warn":
        return []
    return [f"results/{name}/quarantine.checked" for name in DATASETS]


def as_inputs(paths):
    """Return paths of the user's files as inputs; raises WorkflowError for a path with braces.

    In a module with a prefix, `local` keeps the prefix from being put before these paths.
    """
    for path in map(str, paths):
        if contains_wildcard(path):
            message = "Snakemake would take the braces in this path for a wildcard"
            raise WorkflowError(f"{path}: {message}; rename the file or folder")
    return [local(str(path)) for path in paths]


def get_fasta_files(wildcards):
    """Return the dataset's FASTA files, with globs filled in."""
    with explained(f"Dataset {wildcards.dataset}: "):
        return as_inputs(find_fasta_files(list(get_dataset(wildcards).fasta)))


def get_fasta_patterns(wildcards):
    """Return the paths and globs as the user wrote them.

    index.py fills in `~` and variables, so that another HOME does not run the job again.
    """
    return as_arguments(get_dataset(wildcards).fasta)


def as_arguments(patterns):
    """Return paths and globs with `./` before a leading `-`, so that none looks like an option."""
    return [f"./{text}" if text.startswith("-") else text for text in patterns]


def get_fasta_sizes(wildcards):
    """Return the files' sizes in bytes, so that a file replaced by an older one is indexed."""
    return [os.path.getsize(path) for path in get_fasta_files(wildcards)]


def get_invalid_residues(wildcards):
    return get_dataset(wildcards).invalid_residues


def get_model_source(wildcards):
    return model_names.get_model_source(wildcards.model, SETTINGS["models"])


def get_model_files(wildcards):
    source = get_model_source(wildcards)
    if source in known_models.KNOWN:
        # The files of a known model are downloaded, and never change.
        return []
    path = Path(expand(source))
    with explained(f"models: {wildcards.model}: "):
        if path.exists():
            return as_inputs(list_model_files(path))
    raise WorkflowError(model_names.explain_missing_source(wildcards.model, source))


def get_prepared_model(wildcards):
    return f"resources/models/{get_dataset(wildcards).model}.json"


def get_shards(wildcards):
    ranks = range(get_dataset(wildcards).shards)
    return [f"results/{wildcards.dataset}/shards/shard_{rank}.h5" for rank in ranks]


def get_world_size(wildcards):
    return get_dataset(wildcards).shards


def get_settings(wildcards):
    """Return what is computed, as JSON: the keys of Request.

    Split needs all of them, because sequences that have a row of these settings count as done.
    """
    return json.dumps(asdict(get_dataset(wildcards).request))


def get_gpus(wildcards):
    """Return how many GPUs a job of embed_shard needs; None with `device: cpu`."""
    return None if SETTINGS["device"] == "cpu" else 1


def get_threads(wildcards):
    """Return how many cores a shard gets."""
    return count_threads(get_dataset(wildcards))


def count_threads(dataset):
    """Return how many cores a shard gets if all shards of the dataset run at the same time.

    On a cluster this is 1 unless --set-threads is given, because --cores is not the number of cores
    of one machine there.
    """
    if workflow.remote_exec or workflow.non_local_exec:
        return 1
    return max(1, (workflow.cores or 1) // dataset.shards)


def get_python(wildcards, resources):
    """Return the Python of the rule's conda environment, else the one that runs Snakemake."""
    deployed = workflow.deployment_settings.deployment_method
    return "python" if DeploymentMethod.CONDA in deployed else sys.executable


def get_scripts(wildcards, resources):
    return str(SCRIPTS)


def get_own_step(wildcards, resources):
    """Return on a cluster the option that makes the worker a Slurm step, which gets SIGTERM."""
    return ["--own-step"] if workflow.remote_exec else []


def get_device(wildcards, resources):
    """Return where embed_shard computes; in jobs sent to a cluster, `auto` becomes `cuda`."""
    if SETTINGS["device"] == "auto" and workflow.remote_exec:
        # The job has asked for a GPU. On the CPU it would waste that GPU, and nobody would notice.
        return "cuda"
    return SETTINGS["device"]


def get_reuse(wildcards, resources):
    """Return the paths and globs of earlier results as the user wrote them.

    The programs look for the files, so that a finished run does not fail if a file is deleted.
    """
    return as_arguments(get_dataset(wildcards).reuse)


def get_other_stores(wildcards, output, resources):
    """Return the stores of the other datasets that have the same model, at most MOST_STORES.

    They are relative paths. In a module with a prefix, they begin with it, as `output` does.
    """
    own = get_dataset(wildcards)
    prefix = output[0].rpartition(f"results/{own.name}/")[0]
    same = (other for other in DATASETS.values() if other.model == own.model)
    others = (other.name for other in same if other is not own)
    return [f"{prefix}results/{name}/store" for name in islice(others, MOST_STORES)]


def get_execution(wildcards, output, resources):
    """Return how embed_shard computes, as JSON, with the keys that gpu_worker takes."""
    execution = SETTINGS["execution"]
    return json.dumps(
        {
            "device": get_device(wildcards, resources),
            "token_budget": execution["token_budget"],
            "checkpoint_seq_threshold": execution["checkpoint"]["sequences"],
            "checkpoint_time_threshold": execution["checkpoint"]["seconds"],
            "reuse": get_reuse(wildcards, resources),
            "stores": get_other_stores(wildcards, output, resources),
            "speeds": SPEEDS,
        }
    )


def list_planned():
    """Return the datasets that `plan` describes: the first MOST_PLANNED, which one command holds."""
    return list(islice(DATASETS.values(), MOST_PLANNED))


def needs_download(dataset):
    """Whether preparing the dataset's model would download it."""
    source = model_names.get_model_source(dataset.model, SETTINGS["models"])
    prepared = os.path.exists(f"{PREPARED}/{dataset.model}.json")
    return source in known_models.KNOWN and not prepared


def get_plan_inputs(wildcards):
    """Return what `plan` reads: indexes, or FASTA files if a dataset's model is not here yet.

    Raises WorkflowError if there is no dataset.
    """
    if not DATASETS:
        raise WorkflowError(NO_DATASETS)
    paths = []
    for dataset in list_planned():
        if needs_download(dataset):
            with explained(f"Dataset {dataset.name}: "):
                paths += as_inputs(find_fasta_files(list(dataset.fasta)))
        else:
            folder = f"results/{dataset.name}"
            paths += [f"{folder}/index.parquet", f"{folder}/index"]
            paths.append(f"resources/models/{dataset.model}.json")
    return paths


def get_plan_datasets(wildcards, input, resources):
    """Return the settings of the datasets to plan, as a JSON list."""
    paths = {*map(str, input)}
    return json.dumps(
        [
            {
                "name": dataset.name,
                "model": dataset.model,
                "source": model_names.get_model_source(
                    dataset.model, SETTINGS["models"]
                ),
                "fasta": as_arguments(dataset.fasta),
                "shards": dataset.shards,
                "request": asdict(dataset.request),
                "invalid_residues": dataset.invalid_residues,
                "reuse": as_arguments(dataset.reuse),
                "threads": count_threads(dataset),
                "indexed": f"{RESULTS}/{dataset.name}/index" in paths,
            }
            for dataset in list_planned()
        ]
    )


def get_plan_execution(wildcards, resources):
    """Return how shards will be computed, and what limits how many run at once, as JSON."""
    execution, limit = SETTINGS["execution"], workflow.global_resources.get("gpu")
    cluster = workflow.remote_exec or workflow.non_local_exec
    auto = SETTINGS["device"] == "auto"
    return json.dumps(
        {
            # As get_device returns it in jobs that are sent to a cluster.
            "device": "cuda" if auto and cluster else SETTINGS["device"],
            "token_budget": execution["token_budget"],
            "checkpoint_sequences": execution["checkpoint"]["sequences"],
            "cores": None if cluster else workflow.cores,
            "gpu": getattr(limit, "value", limit),
            "jobs": workflow.nodes if cluster else None,
            "cluster": cluster,
        }
    )


def list_current_reports():
    """Return the paths of the reports that are there, and of the results that are there."""
    return [
        f"results/{name}/{PAGE}"
        for name in DATASETS
        if has_current_report(Path(RESULTS, name))
    ]


def get_reports(wildcards):
    """Return the files of every dataset's report; raises WorkflowError if there is no dataset.

    Figures, too: Snakemake would not make one again that is missing beside its page.
    """
    if not DATASETS:
        raise WorkflowError(NO_DATASETS)
    folders = [Path("results", name) for name in DATASETS]
    return [str(path) for folder in folders for path in list_report_files(folder)]


def get_reports_to_include(wildcards):
    """Return the reports that `snakemake --report` includes: those that are made and current.

    Of any other run they are no input, so that such a run makes no report again. A report whose
    table of annotations is gone cannot be one: Snakemake would ask for the table.
    """
    asked = {argument.partition("=")[0] for argument in sys.argv}
    if not asked & {"--report", "--reporter"}:
        return []
    tables = {name: dataset.exports.annotations for name, dataset in DATASETS.items()}
    gone = {
        f"results/{name}/{PAGE}"
        for name, table in tables.items()
        if table is not None and not Path(expand(table)).is_file()
    }
    return [path for path in list_current_reports() if path not in gone]


def has_umap(wildcards):
    """Whether reports have a map by UMAP; if that changes, `report` makes them again."""
    return find_spec("umap") is not None


def get_result_seal(wildcards):
    """Return the seal of the dataset's result, so that an export of another result is made again.

    The time of a result says little: a merge may link an older file, and users move files. If there
    is no result yet, this function is called again when it is made.
    """
    try:
        return read_seal(Path(RESULTS, wildcards.dataset, "embeddings.h5"))
    except (SeqembedError, OSError):
        return None


def get_exported(wildcards):
    """Return the result to export; WorkflowError if it will lack the token rows of the export."""
    per_residue = get_dataset(wildcards).request.per_residue
    if wildcards.export == "uniprot_per_residue.h5" and not per_residue:
        problem = f"results/{wildcards.dataset}/embeddings.h5 has no rows of residues"
        advice = "set `embedding: {per_residue: true}` and run again"
        raise WorkflowError(f"{wildcards.export}: {problem}; {advice}")
    return f"results/{wildcards.dataset}/embeddings.h5"


def get_export_dtype(wildcards):
    return get_dataset(wildcards).exports.dtype


def get_annotations(wildcards):
    """Return the dataset's table of annotations as a list of no or one input."""
    text = get_dataset(wildcards).exports.annotations
    if text is None:
        return []
    path = Path(expand(text))
    with explained(f"Dataset {wildcards.dataset}: "):
        is_folder, is_file = path.is_dir(), path.is_file()
    if is_folder:
        problem = "`exports: {annotations: ...}` names this folder"
        raise WorkflowError(f"{path}: {problem}; give the path of a table")
    if not is_file:
        problem = "`exports: {annotations: ...}` names this file, which is not there"
        raise WorkflowError(f"{path}: {problem}; correct the path")
    return as_inputs([path])


def get_annotation_times(wildcards):
    """Return size and time of the table, so that a table replaced by an older one is exported."""
    with explained(f"Dataset {wildcards.dataset}: "):
        states = [os.stat(path) for path in get_annotations(wildcards)]
    return [[state.st_size, state.st_mtime_ns] for state in states]


def get_annotation_options(wildcards, input):
    return ["--annotations", *input.annotations] if input.annotations else []
