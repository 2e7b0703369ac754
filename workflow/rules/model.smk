"""Prepares a model, given by its name or path, for all workers.

Input: the folder or file that `models` names; none for a known name, which is downloaded.
Output: resources/models/{model}.json
"""


rule prepare_model:
    """Check a model's files, convert them if needed, and describe them in a JSON file."""
    input:
        get_model_files,
    output:
        "resources/models/{model}.json",
    log:
        "logs/models/{model}.log",
    benchmark:
        "logs/models/{model}.benchmark.tsv"
    conda:
        "../../envs/seqembed.yaml"
    params:
        source=get_model_source,
        python=get_python,
        scripts=get_scripts,
    shell:
        r"""
        exec {params.python:q} {params.scripts:q}/prepare_model.py \
            --name {wildcards.model:q} \
            --source={params.source:q} \
            --output {output:q} \
            --log {log:q}
        """
