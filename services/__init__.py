"""The services of EvalFleet; each folder is one application, `runtime` is what they share."""
