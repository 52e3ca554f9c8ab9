"""Many runs from one prefix: sweeps over any settings, and searches."""
