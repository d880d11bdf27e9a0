"""The `evalfleet` command; needs the extra `evalfleet[cli]`."""
