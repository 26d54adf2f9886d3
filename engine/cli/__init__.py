"""The composition root: the `engine` command, which builds what it needs from the layers below.

Arguments in, text or JSON out. No rule, no storage and no protocol is here.
"""
