"""Metrics, and whole-split evaluation."""
