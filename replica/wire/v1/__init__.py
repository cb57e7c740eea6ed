"""Generated from `protos/synod/v1` by `make protos`."""
