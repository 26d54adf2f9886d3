# The hot frames of the worker stream. No other extension needs them: what is here, Python calls.
