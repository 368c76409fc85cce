"""A stand-in for the Kubernetes API of a cluster with Kubeflow Trainer, over HTTP on loopback, that runs TrainJobs.

A TrainJob's nodes are processes here, with the variables that Trainer gives torchrun; a pod's log is what its
processes write. Requests are refused as the real API does it: Status bodies, strict field names, no CRD, no right.
"""

from kubeserver.server import Cluster, serving

__all__ = ["Cluster", "serving"]
