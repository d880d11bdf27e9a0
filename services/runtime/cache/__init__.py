"""A content-addressed cache of bytes: stores, checksummed entries, and one computation per key."""
