"""What `make verify-k8s` runs: renders every overlay, holds it to Kubernetes' schemas, and checks what those cannot."""
