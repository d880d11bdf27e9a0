"""The engines that run inside Triton's stub or the local host; the only modules that import torch."""
