"""Networks, and plain statistics, that read networks."""
