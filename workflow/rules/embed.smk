"""Embeds the sequences of each shard; the only rule that uses a GPU.

Input: results/{dataset}/index/shard_{rank}.parquet and the prepared model.
Output: results/{dataset}/shards/shard_{rank}.h5
"""


rule embed_shard:
    """Embed the sequences of one shard that its checkpoint does not have yet."""
    input:
        index="results/{dataset}/index",
        model=get_prepared_model,
    output:
        "results/{dataset}/shards/shard_{rank}.h5",
    log:
        "logs/{dataset}/worker_{rank}.log",
    benchmark:
        "logs/{dataset}/worker_{rank}.benchmark.tsv"
    conda:
        "../../envs/seqembed.yaml"
    threads: get_threads
    resources:
        gpu=get_gpus,
    params:
        world_size=get_world_size,
        settings=get_settings,
        execution=get_execution,
        own_step=get_own_step,
        python=get_python,
        scripts=get_scripts,
    shell:
        r"""
        exec {params.python:q} {params.scripts:q}/embed_shard.py \
            --index {input.index:q}/shard_{wildcards.rank}.parquet \
            --model {input.model:q} \
            --rank {wildcards.rank} \
            --world-size {params.world_size} \
            --output {output:q} \
            --settings {params.settings:q} \
            --execution {params.execution:q} \
            --threads {threads} \
            --parent "$PPID" \
            {params.own_step:q} \
            --log {log:q}
        """
