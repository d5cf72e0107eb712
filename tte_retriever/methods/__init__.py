"""One file per method of the literature: each builds a list of SentenceTransformer modules."""
