"""The study behind docs/learning.md: what trained networks show on synthetic data."""
