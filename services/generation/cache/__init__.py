"""The cache of answers: what identifies an answer, how it is written down, and who asks it first."""
