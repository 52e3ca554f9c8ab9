"""The model, loaded in any published form, and what of it is frozen."""
