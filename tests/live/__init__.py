"""Readers beside a stream that commits."""
