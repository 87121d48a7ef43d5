"""The studio: synthetic footage of a person in a room."""
