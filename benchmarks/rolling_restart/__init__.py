"""Every service restarted in turn while callers go on: what each kind of caller notices."""
