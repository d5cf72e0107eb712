"""One file per method in the literature: each builds a list of SentenceTransformer modules."""
