"""The page of the server, as files."""
