"""What a run leaves behind: its folder, and the tables printed from its summary."""
