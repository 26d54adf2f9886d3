# No names for Python: the other extensions cimport protobuf.pxd.
