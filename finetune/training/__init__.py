"""Losses, schedules, the loop, checkpoints and tracking. Knows nothing of evaluation."""
