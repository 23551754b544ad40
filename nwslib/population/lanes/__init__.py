"""Networks in lanes: the training step of a crowd as one compiled program for a processor core."""
