"""The Open Inference Protocol (KServe V2) over HTTP and gRPC: a graph's own tensors for clients that know only these.

`tensors` and `inference` are what both transports share; `http_body` and `http` are one of them, `messages` and
`grpc_server` the other.
"""
