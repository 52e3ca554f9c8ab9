"""The frozen prefix's outputs, computed once and kept."""
