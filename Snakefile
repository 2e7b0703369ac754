"""Language-model embeddings of every sequence in your FASTA files."""

import os
import sys

from snakemake.utils import min_version

min_version("9.27")


include: "workflow/rules/common.smk"
include: "workflow/rules/index.smk"
include: "workflow/rules/model.smk"
include: "workflow/rules/embed.smk"
include: "workflow/rules/merge.smk"
include: "workflow/rules/verify.smk"
include: "workflow/rules/export.smk"
include: "workflow/rules/plan.smk"
include: "workflow/rules/report.smk"


rule all:
    """Every dataset's embeddings.h5."""
    input:
        get_results,
        get_checks,
        get_reports_to_include,


onsuccess:
    # A run for other targets may not have made all of them. Standard output is the plan's alone.
    for path in filter(os.path.exists, list_results()):
        print(f"Embeddings: {os.path.abspath(path)}", file=sys.stderr)
    for path in list_current_reports():
        print(f"Report: {os.path.abspath(path)}", file=sys.stderr)


onerror:
    print(*describe_failure(), sep="\n", file=sys.stderr)
