"""The decisions of KEDA and of the HorizontalPodAutoscaler, made on simulated load from the files in ``k8s``."""
