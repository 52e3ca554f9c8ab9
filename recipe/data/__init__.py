"""From a file or the Hub to checked sentence pairs."""
