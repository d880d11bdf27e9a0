"""The scoring service: named, versioned judges of model outputs."""
