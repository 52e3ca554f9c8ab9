"""What a process meets: its streams, its end, signals, the launcher that started it."""
