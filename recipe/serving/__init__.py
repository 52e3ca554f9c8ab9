"""A trained model leaves the house: forms that other libraries load."""
