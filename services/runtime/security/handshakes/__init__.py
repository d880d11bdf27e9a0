"""TLS handshakes that came to nothing, read from what gRPC's core logs: its Python interface tells nothing of them."""
