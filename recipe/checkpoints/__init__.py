"""What a stopped run goes on from, and what may have changed meanwhile."""
