"""Images: the container images, one a dependency set (images/).

Their names, their bases and, once `make images REGISTRY=...` has pushed them, their digests are in images.json, which
lies beside this module to be found wherever it is installed.
"""

import json
from collections.abc import Mapping
from pathlib import Path

FILE = Path(__file__).with_name("images.json")
_REFERENCES = json.loads(FILE.read_text(encoding="utf-8"))
NAMES: Mapping[str, str] = _REFERENCES["images"]
"""What a cluster's own references (`python -m pipelines compile --images`) go by."""
PUSHED: Mapping[str, str] = _REFERENCES["pushed"]
"""Name in NAMES -> its reference in a registry, with its digest."""
CPU = NAMES["cpu"]
"""Whatever loads no model."""
GPU = NAMES["gpu"]
"""vLLM and training."""
EUROEVAL = NAMES["euroeval"]
"""EuroEval: fetch and benchmark."""
