"""Prints what a run will compute, and what disk, memory and time it takes.

Input: results/{dataset}/index.parquet and index/ of each dataset whose model is prepared or lies on
this machine; the FASTA files of each other dataset, whose model would have to be downloaded first.
Output: none, so that the plan is printed each time; results/{dataset}/plan.json is written, too.
"""


rule plan:
    """Print the plan of a run, here and not in a job of a cluster; nothing is embedded."""
    input:
        get_plan_inputs,
    log:
        "logs/plan/plan.log",
    localrule: True
    conda:
        "../../envs/seqembed.yaml"
    params:
        datasets=get_plan_datasets,
        execution=get_plan_execution,
        ids=SETTINGS["ids"],
        gaps=SETTINGS["gaps"],
        suspicious=SETTINGS["suspicious"],
        results=RESULTS,
        models=PREPARED,
        speeds=SPEEDS,
        python=get_python,
        scripts=get_scripts,
    shell:
        r"""
        exec {params.python:q} {params.scripts:q}/plan.py \
            --datasets {params.datasets:q} \
            --execution {params.execution:q} \
            --ids {params.ids:q} \
            --gaps {params.gaps:q} \
            --suspicious {params.suspicious:q} \
            --results {params.results:q} \
            --models {params.models:q} \
            --speeds {params.speeds:q} \
            --log {log:q}
        """
