#!/usr/bin/env bash
# You already have tile features (TRIDENT, CLAM, AtlasPatch, STAMP, slide2vec, LazySlide): slide vectors in four
# commands, without a slide. Every line can be repeated: what is done is skipped.
#
#   FEATURES=features_uni_v1 LABELS=labels.csv bash examples/features.sh
#
# Optional: STORE (cohort.zarr), EPOCHS (1000).
set -euo pipefail

STORE=${STORE:-cohort.zarr}

giga import "$STORE" "$FEATURES"
giga train "$STORE" ${EPOCHS:+--epochs "$EPOCHS"}
giga embed "$STORE"
giga probe "$STORE" --labels "$LABELS"
