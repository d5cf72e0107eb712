"""Training-only parts: they live in losses and never reach a checkpoint."""
