"""Network families: one file each, with layout, initialisation and forward pass for M networks at once."""
