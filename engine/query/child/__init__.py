"""What runs in the processes of queries, and nowhere else: the driver, SQL of strangers, files."""
