"""From a model's name or path to what every worker loads.

Input: the folder or file that `models` names.
Output: resources/models/{model}.json
"""


rule prepare_model:
    """Check a model's files, convert them where needed, and write down what they are."""
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
