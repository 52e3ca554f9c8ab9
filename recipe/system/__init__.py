"""What lies outside the process: files, locks, other processes, the Hub, the arithmetic of the machine."""
