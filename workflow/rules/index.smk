"""Indexes the FASTA files of a dataset, and splits the index into a shard for each rank.

Input: the FASTA files, and resources/models/{model}.json, which says what the model reads.
Output: results/{dataset}/index.parquet and results/{dataset}/index/shard_{rank}.parquet. Between
the two rules, results/{dataset}/residues.bin holds the residues, so that split opens no FASTA file.
"""


rule index:
    """Check every record of the FASTA files and write the index, before a GPU is used."""
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
        ids=SETTINGS["ids"],
        invalid_residues=get_invalid_residues,
        gaps=SETTINGS["gaps"],
        suspicious=SETTINGS["suspicious"],
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
    """Give each distinct sequence to one shard, so that all shards take about as long."""
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
        settings=get_settings,
        reuse=get_reuse,
        stores=get_other_stores,
        device=get_device,
        python=get_python,
        scripts=get_scripts,
    shell:
        r"""
        exec {params.python:q} {params.scripts:q}/split.py \
            --index {input.index:q} \
            --residues {input.residues:q} \
            --model {input.model:q} \
            --world-size {params.world_size} \
            --settings {params.settings:q} \
            --reuse {params.reuse:q} \
            --stores {params.stores:q} \
            --device {params.device:q} \
            --output-dir {output:q} \
            --log {log:q}
        """
