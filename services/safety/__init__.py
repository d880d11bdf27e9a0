"""The safety service: judges turns of conversations with guard models, and never calls safe what it could not judge."""
