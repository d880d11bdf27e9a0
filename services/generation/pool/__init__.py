"""Several Tritons behind one generation service."""
