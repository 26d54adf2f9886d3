"""What the user's code is written with: decorators and components, and `ctx` in all its forms.

Begin with `context.py`. What is asked for through `ctx` becomes an operation of `replay/`; where
and when code runs is a matter of `worker/`.
"""
