"""From a file's bytes to its rows, each with its place."""
