"""Programs of ours that run beside the engine: how they are begun, spoken to, and ended.

What they do is their owners' matter: queries (`query/child`) and rows of ended runs (`archive`).
"""
