"""The stage-aware reward model (SARM family): causal, several cameras, learnt from demonstrations."""
