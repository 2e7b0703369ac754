"""Looks at finished results once more: whenever it is asked for, and for sequences left out.

Input: results/{dataset}/embeddings.h5, with index.parquet and quarantine.tsv beside it
Output: none of `verify`; results/{dataset}/quarantine.checked where `on_quarantine` is `fail`
"""


rule verify:
    """Verify every dataset's embeddings.h5; made first where it is not there."""
    input:
        get_results,
    log:
        "logs/verify/verify.log",
    conda:
        "../../envs/seqembed.yaml"
    params:
        python=get_python,
        scripts=get_scripts,
    shell:
        r"""
        exec {params.python:q} {params.scripts:q}/verify.py {input:q} --log {log:q}
        """


rule check_quarantine:
    """Fail where some sequences of a dataset could not be embedded, and keep its results."""
    input:
        embeddings="results/{dataset}/embeddings.h5",
        quarantine="results/{dataset}/quarantine.tsv",
        index="results/{dataset}/index.parquet",
    output:
        touch("results/{dataset}/quarantine.checked"),
    log:
        "logs/{dataset}/quarantine.log",
    conda:
        "../../envs/seqembed.yaml"
    params:
        python=get_python,
        scripts=get_scripts,
    shell:
        r"""
        exec {params.python:q} {params.scripts:q}/verify.py {input.embeddings:q} \
            --index {input.index:q} \
            --on-quarantine fail \
            --log {log:q}
        """
