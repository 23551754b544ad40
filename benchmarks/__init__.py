"""Speed, side by side, as ratios: ``python -m benchmarks NAME``."""
