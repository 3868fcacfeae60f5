"""Replays: a range of the log once more, beside what the stream made of it."""
