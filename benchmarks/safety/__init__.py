"""The safety service beside what people use today: a pipeline, or embeddings with a regression, in process."""
