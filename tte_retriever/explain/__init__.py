"""Read a thought: as text, and by what changes when another one takes its place."""
