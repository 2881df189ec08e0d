"""Networks: building, weights, depths, freezing. Knows nothing of data sets."""
