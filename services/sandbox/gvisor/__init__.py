"""Runs programs inside a container whose kernel is gVisor."""
