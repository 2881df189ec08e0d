"""Pictures in: reading, decoding, splitting, transforming, loading. Knows nothing of models."""
