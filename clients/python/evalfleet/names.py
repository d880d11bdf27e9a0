"""Resource names: `models/step-100`, which people may shorten to `step-100`."""


def full_name(collection: str, name: str) -> str:
    """Return ``collection/name``; a name that has its collection already is returned as it is."""
    return name if name.startswith(f"{collection}/") else f"{collection}/{name}"


def short_name(name: str) -> str:
    """Return the part of a resource name behind its collection."""
    return name.rpartition("/")[2]
