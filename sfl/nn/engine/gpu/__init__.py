"""The engine for NVIDIA GPUs: Triton kernels, compared with the reference on first use."""
