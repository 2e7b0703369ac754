"""Exports a result in the layouts of other programs, when the user asks for one of the files.

Input: results/{dataset}/embeddings.h5; embeddings.h5ad also takes results/{dataset}/index.parquet
and the table that `exports: {annotations: ...}` names
Output: results/{dataset}/export/embeddings.parquet, uniprot.h5, uniprot_per_residue.h5,
embeddings.npy with ids.txt, embeddings.h5ad
"""


rule export:
    """Write a result as Parquet, or with a dataset for each id."""
    input:
        result=get_exported,
    output:
        "results/{dataset}/export/{export}",
    log:
        "logs/{dataset}/export_{export}.log",
    benchmark:
        "logs/{dataset}/export_{export}.benchmark.tsv"
    wildcard_constraints:
        export=r"embeddings\.parquet|uniprot\.h5|uniprot_per_residue\.h5",
    conda:
        "../../envs/seqembed.yaml"
    params:
        seal=get_result_seal,
        dtype=get_export_dtype,
        python=get_python,
        scripts=get_scripts,
    shell:
        r"""
        exec {params.python:q} {params.scripts:q}/export.py \
            --result {input.result:q} \
            --dtype {params.dtype:q} \
            --output {output:q} \
            --log {log:q}
        """


rule export_npy:
    """Write a result as one array of NumPy, with the ids beside it."""
    input:
        result="results/{dataset}/embeddings.h5",
    output:
        rows="results/{dataset}/export/embeddings.npy",
        ids="results/{dataset}/export/ids.txt",
    log:
        "logs/{dataset}/export_embeddings.npy.log",
    benchmark:
        "logs/{dataset}/export_embeddings.npy.benchmark.tsv"
    conda:
        "../../envs/seqembed.yaml"
    params:
        seal=get_result_seal,
        dtype=get_export_dtype,
        python=get_python,
        scripts=get_scripts,
    shell:
        r"""
        exec {params.python:q} {params.scripts:q}/export.py \
            --result {input.result:q} \
            --dtype {params.dtype:q} \
            --output {output.rows:q} \
            --log {log:q}
        """


rule export_anndata:
    """Write a result for AnnData and scanpy, with annotations."""
    input:
        result="results/{dataset}/embeddings.h5",
        index="results/{dataset}/index.parquet",
        annotations=get_annotations,
    output:
        "results/{dataset}/export/embeddings.h5ad",
    log:
        "logs/{dataset}/export_embeddings.h5ad.log",
    benchmark:
        "logs/{dataset}/export_embeddings.h5ad.benchmark.tsv"
    conda:
        "../../envs/seqembed.yaml"
    params:
        seal=get_result_seal,
        dtype=get_export_dtype,
        annotations=get_annotation_options,
        annotation_times=get_annotation_times,
        python=get_python,
        scripts=get_scripts,
    shell:
        r"""
        exec {params.python:q} {params.scripts:q}/export.py \
            --result {input.result:q} \
            --index {input.index:q} \
            {params.annotations:q} \
            --dtype {params.dtype:q} \
            --output {output:q} \
            --log {log:q}
        """
