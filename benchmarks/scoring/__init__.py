"""How many outputs a second are scored, beside the scorers of lm-evaluation-harness and Inspect AI."""
