#!/usr/bin/env bash
# Tiles and a bank on a Dask cluster (pip install 'gigacli[dask]'). Here the cluster is two workers on this machine; on a
# real one leave that part out and say where its scheduler is. The store and the slides must have the same paths everywhere.
#
#   SLIDES=slides bash examples/dask.sh
#   SLIDES=slides SCHEDULER=tcp://10.0.0.1:8786 bash examples/dask.sh
#
# Optional: STORE (cohort.zarr), MPP (1.0), TILE_PX (256), PORT (8786).
set -euo pipefail

STORE=${STORE:-cohort.zarr}

if [ -z "${SCHEDULER:-}" ]; then
    SCHEDULER="tcp://127.0.0.1:${PORT:-8786}"
    : >dask.log
    dask scheduler --host 127.0.0.1 --port "${PORT:-8786}" --no-dashboard >>dask.log 2>&1 &
    scheduler=$!
    dask worker "$SCHEDULER" --nworkers 2 --nthreads 1 --no-dashboard >>dask.log 2>&1 &
    worker=$!
    trap 'kill $worker; wait $worker || true; kill $scheduler; wait' EXIT
    until grep -q "Registered to" dask.log; do
        kill -0 $worker # ends here, and says so in dask.log, where it could not start
        sleep 0.5
    done
fi

giga tile "$STORE" "$SLIDES" --mpp "${MPP:-1.0}" --tile-px "${TILE_PX:-256}" --dask "$SCHEDULER"
giga bank "$STORE" --encoder random-resnet18 ${AUGMENTATIONS:+--augmentations "$AUGMENTATIONS" --draws "${DRAWS:-256}"} --dask "$SCHEDULER"
giga info "$STORE"
