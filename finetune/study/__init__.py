"""Studies: several arms, each with its own searched rate, several seeds, one table."""
