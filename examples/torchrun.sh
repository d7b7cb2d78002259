#!/usr/bin/env bash
# Training on several GPUs of one machine: the batch is split over the processes, the loss sees all of it. Without GPUs
# the processes compute on the processor, which is for trying it out. Killed, it goes on where it stopped, also with
# another number of processes.
#
#   PROCESSES=4 bash examples/torchrun.sh
#
# Optional: STORE (cohort.zarr, which holds a bank), EPOCHS (1000).
# Over several machines, on each of them: torchrun --nnodes N --nproc-per-node 4 --rdzv-backend c10d --rdzv-endpoint HOST:29500
set -euo pipefail

STORE=${STORE:-cohort.zarr}

torchrun --standalone --nproc-per-node "${PROCESSES:-2}" -m gigacli train "$STORE" --epochs "${EPOCHS:-1000}"
giga embed "$STORE" --views 50
