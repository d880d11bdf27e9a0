"""Stubs of KEDA's contract for external scalers, generated from ``third_party/keda`` by ``make protos``."""
