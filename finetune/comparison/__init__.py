"""Finished runs side by side: which method is better, and whether the difference is real."""
