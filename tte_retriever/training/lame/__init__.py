"""Training of LaME: its loss, collator and config."""
