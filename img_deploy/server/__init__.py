"""Moment search over HTTP: the batcher and the shelf know no HTTP, ``app`` has the routes."""
