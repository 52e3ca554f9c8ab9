"""The recipe beside its peers."""
