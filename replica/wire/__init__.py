"""The wire contracts in Python: code generated from `protos/` by `make protos`, committed and never edited.

`v1` holds the generated modules of `synod/v1`. They import grpc and protobuf and nothing of the project.
`protos.sha256` lists the files that were generated and what they were generated from; `make check` compares.
"""
