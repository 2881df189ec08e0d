"""What each sub-command reads from its words, and which function it calls."""
