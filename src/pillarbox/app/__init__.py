"""Floor 5: the program. `daemon` puts the house together; `cli` is its face."""
