"""The whole line in a minute: draw a folder of real files, index it, ask questions whose answers are known."""
