"""What a run says of itself and leaves behind."""
