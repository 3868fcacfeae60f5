"""What can be done: by hand with a form, or by the clock."""
