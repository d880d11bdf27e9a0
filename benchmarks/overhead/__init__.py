"""What an item costs the host when the model answers at once, beside Inspect AI and lm-evaluation-harness."""
