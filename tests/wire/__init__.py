"""The protobuf edge: the generated code, the codecs, and what other libraries make of the bytes."""
