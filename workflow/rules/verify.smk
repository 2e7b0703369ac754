"""Verifies results when the user asks for it, and with `on_quarantine: fail` at the end of a run.

Input: results/{dataset}/embeddings.h5, with index.parquet and quarantine.tsv beside it
Output: none of `verify`; results/{dataset}/quarantine.checked of `check_quarantine`
"""


rule verify:
    """Verify the embeddings.h5 of every dataset, after making those that are missing."""
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
    """Fail if some sequences of a dataset could not be embedded; the results are kept."""
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
