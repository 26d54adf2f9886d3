"""The protobuf edge: model values to bytes and back.

The only package that may import betterproto2; nothing outside it sees a generated message.
"""
