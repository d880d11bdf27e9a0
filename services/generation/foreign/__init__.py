"""Models that somebody else deployed in a Triton of their own: asked through an adapter, never loaded or unloaded."""
