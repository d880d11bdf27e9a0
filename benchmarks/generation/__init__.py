"""Generation and log-likelihoods beside lm-evaluation-harness, on the same checkpoint, prompts and cores."""
