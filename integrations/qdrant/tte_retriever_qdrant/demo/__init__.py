"""The demo: draw a folder of real files, index it, and search it with questions whose answers are known."""
