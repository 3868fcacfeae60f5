"""What there is: topics, live views, models, archive, snapshots."""
