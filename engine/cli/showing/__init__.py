"""How runs, records and rows look in a terminal. Asks nobody for them."""
