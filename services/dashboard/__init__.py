"""The dashboard: pages over the evaluation and the aggregation service, for looking only."""
