"""Merges the shards of a dataset into one file.

Input: results/{dataset}/index.parquet and all results/{dataset}/shards/shard_{rank}.h5
Output: results/{dataset}/embeddings.h5 and results/{dataset}/quarantine.tsv
"""


rule merge:
    """Give each id its row, in input order, and check that no id is missing."""
    input:
        index="results/{dataset}/index.parquet",
        shards=get_shards,
    output:
        embeddings="results/{dataset}/embeddings.h5",
        quarantine="results/{dataset}/quarantine.tsv",
    log:
        "logs/{dataset}/merge.log",
    benchmark:
        "logs/{dataset}/merge.benchmark.tsv"
    conda:
        "../../envs/seqembed.yaml"
    params:
        python=get_python,
        scripts=get_scripts,
    shell:
        r"""
        exec {params.python:q} {params.scripts:q}/merge.py \
            --index {input.index:q} \
            --shards {input.shards:q} \
            --output {output.embeddings:q} \
            --quarantine {output.quarantine:q} \
            --log {log:q}
        """
