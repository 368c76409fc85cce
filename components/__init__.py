"""Components: one thin Kubeflow component a stage; a body only calls that stage's `run`.

A component is a file of the stage's name. Its inputs and outputs are artifacts, its other parameters the knobs of the
stage's Config. Bodies import what they use (Kubeflow ships their source alone) and hold no logic.
"""
