"""Videos and images from files."""
