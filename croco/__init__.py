"""CroCo: self-generated, English-rewarded preference pairs that tune a multilingual model.

One stage a module, named by its verb; `python -m croco` lists them. Nothing heavy is imported at module level:
torch, vllm, trl, peft, transformers and euroeval are imported inside the functions that need them.
"""

__version__ = "0.1.0"
