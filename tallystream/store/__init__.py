"""Objects at rest: one way to put, get, list and delete, on a disk or in S3; sealed when there is a key."""
