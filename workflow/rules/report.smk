"""Makes a report of each result when the user asks for it; `snakemake --report` has its figures.

Input: results/{dataset}/embeddings.h5, index.parquet and quarantine.tsv, and the table that
`exports: {annotations: ...}` names; besides, what the workers' events in logs/{dataset}/ say
Output: results/{dataset}/report.html, and the figures in results/{dataset}/report/
"""


rule report:
    """Make the report of every dataset."""
    input:
        get_reports,
    localrule: True


rule report_dataset:
    """Say what a run made and how it went, on one page with figures."""
    input:
        result="results/{dataset}/embeddings.h5",
        index="results/{dataset}/index.parquet",
        quarantine="results/{dataset}/quarantine.tsv",
        annotations=get_annotations,
    output:
        page=report(
            "results/{dataset}/report.html",
            caption="../report/page.rst",
            category="{dataset}",
            labels={"figure": "the whole report"},
        ),
        phases=report(
            "results/{dataset}/report/phases.svg",
            caption="../report/phases.rst",
            category="{dataset}",
            labels={"figure": "where the time went"},
        ),
        speeds=report(
            "results/{dataset}/report/speeds.svg",
            caption="../report/speeds.rst",
            category="{dataset}",
            labels={"figure": "speed of the shards"},
        ),
        lengths=report(
            "results/{dataset}/report/lengths.svg",
            caption="../report/lengths.rst",
            category="{dataset}",
            labels={"figure": "lengths"},
        ),
        norms=report(
            "results/{dataset}/report/norms.svg",
            caption="../report/norms.rst",
            category="{dataset}",
            labels={"figure": "norms"},
        ),
        neighbours=report(
            "results/{dataset}/report/neighbours.svg",
            caption="../report/neighbours.rst",
            category="{dataset}",
            labels={"figure": "near-duplicates"},
        ),
        map=report(
            "results/{dataset}/report/map.png",
            caption="../report/map.rst",
            category="{dataset}",
            labels={"figure": "map of the embeddings"},
        ),
    log:
        "logs/{dataset}/report.log",
    benchmark:
        "logs/{dataset}/report.benchmark.tsv"
    conda:
        "../../envs/seqembed.yaml"
    params:
        seal=get_result_seal,
        umap=has_umap,
        settings=get_settings,
        annotations=get_annotation_options,
        annotation_times=get_annotation_times,
        models=PREPARED,
        python=get_python,
        scripts=get_scripts,
    shell:
        r"""
        exec {params.python:q} {params.scripts:q}/report.py \
            --result {input.result:q} \
            --index {input.index:q} \
            --quarantine {input.quarantine:q} \
            --models {params.models:q} \
            --settings {params.settings:q} \
            {params.annotations:q} \
            --output {output.page:q} \
            --figures {output.phases:q} {output.speeds:q} {output.lengths:q} {output.norms:q} \
            {output.neighbours:q} {output.map:q} \
            --log {log:q}
        """
