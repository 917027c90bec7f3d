"""What a run leaves behind, and opening it again."""
