"""Small bundled artefacts, and the scripts that made them."""
