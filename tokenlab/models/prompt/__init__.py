"""From media and decisions to what stock `generate` takes."""
