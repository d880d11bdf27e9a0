"""What runs inside Triton, what starts it, and the torch-free contract and client through which the services use it."""
