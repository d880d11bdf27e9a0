"""What every service process needs, and no business logic: server, interceptors, settings, errors, channels."""
