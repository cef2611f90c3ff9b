"""From decoded frames to the token grid: frame selection, processor, tower, evidence, the grid stage."""
