"""Images: the one place that names the container images, one a dependency set (images/)."""

CPU = "croco-cpu:0.1.0"
"""resolve, plan, prepare, gather, pair, select, report."""
GPU = "croco-gpu:0.1.0"
"""vLLM and training: translate, sample, score, train, answer, arena."""
EUROEVAL = "croco-euroeval:0.1.0"
"""benchmark."""
NAMES = {"cpu": CPU, "gpu": GPU, "euroeval": EUROEVAL}
"""What a cluster's own references (`python -m pipelines compile --images`) go by."""
