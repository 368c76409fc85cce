"""Imports: no module of ours loads an engine or a trainer before it is asked to work."""

import subprocess
import sys

HEAVY = "torch vllm trl transformers peft datasets euroeval mlflow tensorboardX model_registry"
PROGRAM = f"""
import importlib, pkgutil, sys
import components, croco, pipelines
for package in (components, croco, pipelines):
    for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        importlib.import_module(module.name)
        loaded = set("{HEAVY}".split()) & set(sys.modules)
        assert not loaded, f"{{module.name}} imports {{sorted(loaded)}} at module level"
"""


def test_no_module_imports_an_engine_or_trainer() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
