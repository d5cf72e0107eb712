"""What a thought holds and what it is good for: decode it, change it, measure its shape."""
