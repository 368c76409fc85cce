"""Pipelines: the stages' components wired together, for a laptop and for Kubeflow."""
