"""Triton Python models: each adapts one engine to Triton's Python backend."""
