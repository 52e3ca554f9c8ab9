"""A search for settings with Optuna, all trials from one prefix."""
