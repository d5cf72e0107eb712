"""Training of TTE-Flash: its loss, collator and config."""
