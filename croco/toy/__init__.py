"""The toy world: a tiny multilingual universe in which the whole CroCo method runs on a laptop, in minutes."""
