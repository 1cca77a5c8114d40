"""Steps of the scripts that make the bundled artefacts; nothing here is needed at run time."""
