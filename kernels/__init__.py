"""Fused scoring kernels and their plain-torch twins."""
