"""A command line, or a YAML file, as arguments that fit each other."""
