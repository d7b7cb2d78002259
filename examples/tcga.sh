#!/usr/bin/env bash
# TCGA vectors in four commands, from tile features that others have published: docs/tcga.md says where and what to
# mind. Every line can be repeated: what is done is skipped.
#
#   bash examples/tcga.sh
#   PROJECTS="TCGA-KIRC TCGA-KIRP TCGA-KICH" bash examples/tcga.sh
#
# Needs `hf` (pip install '.[hub]') and, where the data set asks for it, `hf auth login`.
# Optional: DATASET (a data set on Hugging Face with TRIDENT's h5 in TCGA/PROJECT/), STORE (tcga.zarr), FEATURES
# (features, the folder they come into), EPOCHS.
set -euo pipefail

DATASET=${DATASET:-sofieneb/uni2h_features} PROJECTS=${PROJECTS:-TCGA-LUAD TCGA-LUSC}
STORE=${STORE:-tcga.zarr} FEATURES=${FEATURES:-features}

for project in $PROJECTS; do
    hf download "$DATASET" --repo-type dataset --include "TCGA/$project/*.h5" --local-dir "$FEATURES"
done
giga import "$STORE" "$FEATURES"
giga train "$STORE" ${EPOCHS:+--epochs "$EPOCHS"}
giga embed "$STORE"

# What the vectors are worth, where the project is the label: the folder that a file lies in.
find "$FEATURES" -name '*.h5' |
    awk -F/ 'BEGIN { print "slide_id,label" } { sub(/\.h5$/, "", $NF); print $NF "," $(NF - 1) }' >labels.csv
giga probe "$STORE" --labels labels.csv
