"""Predictions and metrics. Knows nothing of training."""
