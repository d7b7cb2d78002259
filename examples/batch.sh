#!/usr/bin/env bash
# From a folder of slides to a probe table, as a batch job would run it. Every line can be repeated: what is
# done is skipped, what was interrupted goes on.
#
#   SLIDES=slides LABELS=labels.csv bash examples/batch.sh
#
# Optional: STORE (cohort.zarr), SHARDS (processes for tile and bank), MPP, TILE_PX, EPOCHS.
set -euo pipefail

STORE=${STORE:-cohort.zarr}
SHARDS=${SHARDS:-2}

# Registration reads headers only and is done once; it also prices the run.
giga tile "$STORE" "$SLIDES" --plan --mpp "${MPP:-1.0}" --tile-px "${TILE_PX:-256}"

# Shards write different slides: they need no lock and may run anywhere, in any order, all at once.
# Under SLURM: sbatch --array=1-$SHARDS, with $SLURM_ARRAY_TASK_ID in place of $i.
shards() {
    local pids=() failed=0
    for i in $(seq "$SHARDS"); do
        "$@" --shard "$i/$SHARDS" &
        pids+=($!)
    done
    for pid in "${pids[@]}"; do wait "$pid" || failed=$?; done
    return "$failed"
}

shards giga tile "$STORE" --mpp "${MPP:-1.0}" --tile-px "${TILE_PX:-256}"
giga pretrain-tiles "$STORE" --epochs "${TILE_EPOCHS:-200}"
shards giga bank "$STORE" --encoder moco ${AUGMENTATIONS:+--augmentations "$AUGMENTATIONS" --draws "${DRAWS:-256}"}
giga pack "$STORE"  # many slides a file, in place of many files a slide; slides may be added all the same
giga train "$STORE" ${EPOCHS:+--epochs "$EPOCHS"}
giga embed "$STORE" --views 50
giga probe "$STORE" --labels "$LABELS" --fraction 0.25
