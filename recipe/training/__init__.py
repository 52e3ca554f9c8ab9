"""The Trainer put together, fed and watched."""
