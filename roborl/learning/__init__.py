"""Sampling, mixing, one file per algorithm, checkpoints."""
