"""What a run is told: YAML files and command lines, merged, expanded, and checked against signatures."""
