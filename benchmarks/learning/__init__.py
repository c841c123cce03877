"""The study behind docs/learning.md: what trained networks show on planted data."""
