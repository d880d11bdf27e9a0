"""Texts as vectors, for scorers that compare what texts mean."""
