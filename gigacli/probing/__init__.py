"""Labels, splits and linear probes on plain arrays."""
