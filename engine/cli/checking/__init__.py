"""What `engine doctor` looks at, each thing by a function that returns a `Check`."""
