"""Python client of EvalFleet; the generated stubs live in the `v1` folders below."""
