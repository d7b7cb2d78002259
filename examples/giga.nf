// From a folder of slides to a probe table under Nextflow.
//
//   nextflow run examples/giga.nf --slides slides --labels labels.csv
//
// Optional: --store cohort.zarr, on a file system that all jobs share; --shards 2, --mpp 1.0, --tile_px 256. What jobs get
// (processors, GPUs, a container) is said in nextflow.config, by the names of the processes.
//
// The store is no file that Nextflow hands on: all processes write into it, and what is done stands in it. So a process
// that is run again skips what is done, and what goes from one process to the next is only the word that it is over.
// giga ends with 1 where a slide failed; the others go on, and `giga info` lists the failures.

params.slides = null
params.labels = null
params.store = 'cohort.zarr'
params.shards = 2
params.mpp = 1.0
params.tile_px = 256

process REGISTER {
    output:
    val true

    script:
    """
    giga tile '${file(params.store)}' '${file(params.slides)}' --plan --mpp ${params.mpp} --tile-px ${params.tile_px}
    """
}

process TILE {
    input:
    tuple val(ready), val(shard)

    output:
    val true

    script:
    """
    giga tile '${file(params.store)}' --shard ${shard}/${params.shards} || test \$? -eq 1
    """
}

process PRETRAIN_TILES {
    input:
    val ready

    output:
    val true

    script:
    """
    giga pretrain-tiles '${file(params.store)}'
    """
}

process BANK {
    input:
    tuple val(ready), val(shard)

    output:
    val true

    script:
    """
    giga bank '${file(params.store)}' --encoder moco --shard ${shard}/${params.shards} || test \$? -eq 1
    """
}

process TRAIN {
    input:
    val ready

    output:
    val true

    script:
    """
    giga train '${file(params.store)}'
    giga embed '${file(params.store)}'
    """
}

process PROBE {
    publishDir '.', mode: 'copy'

    input:
    val ready
    path labels

    output:
    path 'probe.txt'

    script:
    """
    giga probe '${file(params.store)}' --labels ${labels} >probe.txt
    """
}

workflow {
    shards = channel.of(1..params.shards)
    REGISTER()
    TILE(REGISTER.out.combine(shards))
    PRETRAIN_TILES(TILE.out.collect())
    BANK(PRETRAIN_TILES.out.combine(shards))
    TRAIN(BANK.out.collect())
    PROBE(TRAIN.out, file(params.labels))
}
