#!/usr/bin/env bash
# From a folder of slides to a probe table under SLURM: array jobs for what is split by slides, one job for the rest.
# Run it on a login node; run it again to finish what was killed by a time limit: what is done is skipped.
#
#   SLIDES=slides LABELS=labels.csv bash examples/slurm.sh
#
# Optional: STORE (cohort.zarr, on a file system that all nodes share), SHARDS (20), MPP (1.0), TILE_PX (256),
# CPU and GPU (options of sbatch for jobs without and with a GPU).
set -euo pipefail

export STORE=${STORE:-cohort.zarr} SHARDS=${SHARDS:-20} LABELS
CPU=${CPU:---cpus-per-task=4 --mem=16G --time=4:00:00}
GPU=${GPU:---cpus-per-task=8 --mem=32G --time=12:00:00 --gres=gpu:1}

# Registration reads headers only and is done once; it also says what the whole run will cost.
giga tile "$STORE" "$SLIDES" --plan --mpp "${MPP:-1.0}" --tile-px "${TILE_PX:-256}"

# `afterany`, not `afterok`: giga ends with 1 where a slide failed, and the others go on. `giga info` lists the failures.
after=""
submit() { # submit NAME "SBATCH OPTIONS" 'COMMAND LINE': a job that starts when the one before it has ended
    local name=$1 options=$2 line=$3
    # shellcheck disable=SC2086  # options are several words
    after=$(sbatch --parsable --job-name="giga-$name" ${after:+--dependency=afterany:$after} $options --wrap "$line")
    echo "$name: job $after"
}

# Single quotes: the variables are those of the job. It gets this environment, which is what sbatch does by default.
submit tile "$CPU --array=1-$SHARDS" 'giga tile "$STORE" --shard "$SLURM_ARRAY_TASK_ID/$SHARDS"'
submit pretrain-tiles "$GPU" 'giga pretrain-tiles "$STORE" --epochs "${TILE_EPOCHS:-200}"'
submit bank "$GPU --array=1-$SHARDS" \
    'giga bank "$STORE" --encoder moco ${AUGMENTATIONS:+--augmentations "$AUGMENTATIONS" --draws "${DRAWS:-256}"} --shard "$SLURM_ARRAY_TASK_ID/$SHARDS"'
submit train "$GPU" 'giga train "$STORE" ${EPOCHS:+--epochs "$EPOCHS"}'
submit embed "$GPU" 'giga embed "$STORE" --views 50'
submit probe "$CPU" 'giga probe "$STORE" --labels "$LABELS" --fraction 0.25'
