"""What open runs want of the deployments that serve them, told to KEDA; ``docs/scaling.md`` has the whole picture."""
