"""Many networks trained as one tensor program."""
