"""Several models on the same items, no more of them than the answer needs."""
