"""The generation service: checkpoints registered in Triton, sampling and log-likelihoods."""
