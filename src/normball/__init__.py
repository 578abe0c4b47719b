"""Optimizers that step on norm balls."""
