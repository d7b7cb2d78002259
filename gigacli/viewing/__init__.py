"""A page on this machine alone that zooms through slides, with what the store knows of them drawn on top."""
