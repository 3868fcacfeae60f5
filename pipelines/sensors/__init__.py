"""What is watched: the stream, and the runs of the control plane itself."""
