"""Networks, augmentation and training: tensors only."""
