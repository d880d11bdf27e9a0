"""The vLLM engine: the real vLLM behind the same tensors as our own engine."""
