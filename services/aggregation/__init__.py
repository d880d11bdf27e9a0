"""The aggregation service: the ledger of results, and estimates with intervals over it."""
