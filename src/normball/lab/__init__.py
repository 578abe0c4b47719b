"""Experiments with the optimizers: tasks, training, sweeps, reports (needs ``normball[lab]``)."""
