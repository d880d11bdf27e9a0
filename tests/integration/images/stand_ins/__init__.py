"""Images in the place of those that deploy/compose.yaml takes from registries."""
