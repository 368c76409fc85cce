"""Chaos: stages killed at random instants, resumed, and held against runs that nobody disturbed.

    PYTHONPATH=tests python -m chaos --toy .cache/toy --out .cache/chaos

world      the stages that are run, on the toy world
trace      what a run tells of itself
attempt    one run, in a process of its own, killed or not
witness    what a store has held, and whether that was ever broken
rounds     a stage from nothing to its finished output, over as many kills as it takes
__main__   all of them, two at a time, and the closing line
"""
