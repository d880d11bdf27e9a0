"""EvalFleet inside other harnesses; each package here is an extra of its own (docs/plugins.md)."""
