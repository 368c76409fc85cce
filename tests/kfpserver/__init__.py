"""A stand-in for Kubeflow's API server (v2beta1) and for the Kubernetes API, over HTTP on loopback.

It answers as the real ones do where a client can tell: names in snake_case but `recurringRuns`, fields without a value
left out, 64-bit numbers as text, pages of ten unless asked for more, unknown fields refused, google.rpc.Status errors.
"""

from kfpserver.server import Kubeflow, serving

__all__ = ["Kubeflow", "serving"]
