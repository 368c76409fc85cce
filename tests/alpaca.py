"""What the alpaca_eval package says of annotations; runs in an environment of its own, which has nothing of ours.

    .cache/alpaca/bin/python tests/alpaca.py < FILE.jsonl

Takes lines of {"glm": a name in the package's GLM_INFO, "annotations": [...]}, and gives a line with the package's
metrics for each. The package reads its own data set's df_gamed.csv from the hub, or offline from HF_HUB_CACHE.
"""

import json
import sys

import pandas as pd
from alpaca_eval.metrics import get_length_controlled_winrate

for line in sys.stdin:
    asked = json.loads(line)
    annotations = pd.DataFrame(asked["annotations"])
    metrics = get_length_controlled_winrate(annotations, glm_name=asked["glm"], save_weights_dir=None)
    print(json.dumps({name: float(value) for name, value in metrics.items()}))
