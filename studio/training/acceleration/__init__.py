"""What makes training fast without changing what it computes: fused passes, kernels, compilation, thread counts."""
