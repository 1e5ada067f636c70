"""Floor 2: what the server decides. Reaches the world through the ports in `ports.py` only."""
