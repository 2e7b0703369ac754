"""From FASTA files to one index, and from the index to a shard for each rank.

Input: the FASTA files of a dataset, and resources/models/{model}.json for what its model reads.
Output: results/{dataset}/index.parquet and results/{dataset}/index/shard_{rank}.parquet;
results/{dataset}/residues.bin goes from one rule to the other, so that split opens no FASTA file.
"""


rule index:
    """Index every sequence, and check each of them before a GPU is used."""
    input:
        fasta=get_fasta_files,
        model=get_prepared_model,
    output:
        index="results/{dataset}/index.parquet",
        residues=temp("results/{dataset}/residues.bin"),
    log:
        "logs/{dataset}/index.log",
    benchmark:
        "logs/{dataset}/index.benchmark.tsv"
    conda:
        "../../envs/seqembed.yaml"
    params:
        fasta=get_fasta_patterns,
        ids=get_ids,
        invalid_residues=get_invalid_residues,
        gaps=get_gaps,
        suspicious=get_suspicious,
        sizes=get_fasta_sizes,
        python=get_python,
        scripts=get_scripts,
    shell:
        r"""
        exec {params.python:q} {params.scripts:q}/index.py \
            --fasta {params.fasta:q} \
            --ids {params.ids:q} \
            --model {input.model:q} \
            --invalid-residues {params.invalid_residues:q} \
            --gaps {params.gaps:q} \
            --suspicious {params.suspicious:q} \
            --output {output.index:q} \
            --residues {output.residues:q} \
            --log {log:q}
        """


rule split:
    """Give each distinct sequence to one shard, longest first, costs balanced."""
    input:
        index="results/{dataset}/index.parquet",
        residues="results/{dataset}/residues.bin",
        model=get_prepared_model,
    output:
        directory("results/{dataset}/index"),
    log:
        "logs/{dataset}/split.log",
    benchmark:
        "logs/{dataset}/split.benchmark.tsv"
    conda:
        "../../envs/seqembed.yaml"
    params:
        world_size=get_world_size,
        long_sequences=get_long_sequences,
        max_length=get_max_length,
        layer=get_layer,
        python=get_python,
        scripts=get_scripts,
    shell:
        r"""
        exec {params.python:q} {params.scripts:q}/split.py \
            --index {input.index:q} \
            --residues {input.residues:q} \
            --model {input.model:q} \
            --world-size {params.world_size} \
            --long-sequences {params.long_sequences:q} \
            --max-length {params.max_length:q} \
            --layer {params.layer:q} \
            --output-dir {output:q} \
            --log {log:q}
        """
