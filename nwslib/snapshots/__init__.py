"""Labelled weights on disk: layouts, the schema of a population, and the store. Imports no torch."""
