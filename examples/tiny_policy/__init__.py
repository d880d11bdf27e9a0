"""A small chat model trained from scratch in minutes: a real checkpoint for machines that reach no model hub."""
