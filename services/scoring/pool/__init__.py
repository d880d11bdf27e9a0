"""Processes in which heavy scorers judge, and which can be killed."""
