"""How good the vectors are: benchmarks and the small drawn world that they are built on."""
