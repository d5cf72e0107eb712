"""Training of explicit chain of thought: its loss, collator and config."""
