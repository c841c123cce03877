"""Generated datasets in the real layout, in which it is known what decides each query."""
