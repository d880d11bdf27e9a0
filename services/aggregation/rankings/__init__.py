"""Several runs on the same items in the same order: which are the best, or as good as the first?"""
