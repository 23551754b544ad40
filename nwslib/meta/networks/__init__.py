"""Meta-networks, one file each."""
