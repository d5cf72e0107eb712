"""Training of PLUME: its loss, collator and config."""
