"""Batches: many runs in one task."""
