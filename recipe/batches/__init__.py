"""From sentence pairs to tokens in the order in which they are trained on."""
