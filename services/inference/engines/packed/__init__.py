"""Forward passes over many token sequences packed into one row, without padding in the linear layers."""
